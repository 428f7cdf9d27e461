/** Where models come from: a folder behind a URL, on Hugging Face, in a list of files, or on Node's disk. */

import type { EngineName } from "../engines/engine.ts";
import { messageOf, SlimViTError, throwIfAborted } from "../errors.ts";
import type { Manifest, Model, WeightsDtype, WeightsFile } from "../format/model.ts";
import { MAX_MANIFEST_BYTES, readManifest, readModel } from "../format/read.ts";
import { CACHE } from "./cache.ts";
import { Collector, download, MANIFEST, type ReadOptions } from "./download.ts";
import { inflating } from "./inflate.ts";
import { sha256 } from "./sha256.ts";

/** A folder by its absolute URL (`file:` in Node), or its files. */
export type Source = { url: string } | { files: { name: string; blob: Blob }[] };

export interface Progress {
  /** file being read */
  file: string;
  loadedBytes: number;
  /** from slimvit.json, so it is known before the first byte */
  totalBytes: number;
  /** true when the bytes came from the cache */
  cached: boolean;
}

/** Where weights are kept between visits, by the lower-case hex of their sha256; what it returns is checked like a download. */
export interface WeightsStore {
  get(sha256: string): Promise<Uint8Array | undefined>;
  put(sha256: string, bytes: Uint8Array): Promise<void>;
}

export interface LoadRequest {
  source: Source;
  engine: EngineName | "auto";
  dtype: WeightsDtype | "auto";
  cache: boolean | WeightsStore;
  onProgress?: (progress: Progress) => unknown;
  signal?: AbortSignal;
}

export interface LoadedModel {
  model: Model;
  /** what could not be done here, in people's words */
  notes: string[];
}

/**
 * @param meanwhile work for this thread, begun when the manifest is there and the weights are being read
 * @throws SlimViTError `network`, `integrity`, `bad-model`, `bad-option`, `aborted`, `out-of-memory`
 */
export async function loadModel(request: LoadRequest, meanwhile?: () => void): Promise<LoadedModel> {
  const { source, engine, dtype, signal } = request;
  throwIfAborted(signal);
  const folder = await openFolder(source, signal);
  const name = folder.nameOf(MANIFEST);
  const notes: string[] = [];
  const wanted = folder.remote && request.cache;
  const opening = wanted === true ? openCache(notes) : undefined; // first, as the kept weights take longest
  const asked = folder.read(MANIFEST, { limit: MAX_MANIFEST_BYTES }).then((bytes) => new TextDecoder().decode(bytes));
  asked.finally(meanwhile).catch(() => {}); // told below
  const cache = await opening;
  const store = wanted === true ? cache && storeIn(cache) : wanted || undefined;
  const before = await cache
    ?.match(name)
    .then((found) => found?.text())
    .catch(() => undefined);
  const begin = (text: string) => {
    const manifest = readManifest(text, name);
    const weights = chooseWeights(manifest, dtype, engine, name);
    return { text, manifest, weights, kept: fromStore(store, weights.sha256) };
  };
  let begun: ReturnType<typeof begin> | undefined;
  try {
    if (before) begun = begin(before); // while the server is asked
  } catch {} // what is kept may be damaged or have no such dtype: what the server says is read below, and its faults are told
  const text = await asked.catch((error) => {
    const isOffline = error instanceof SlimViTError && error.code === "network" && error.cause;
    if (isOffline && before) return before;
    throw error;
  }); // a server that answers is always believed
  if (begun?.text !== text) begun = begin(text);
  const { manifest, weights, kept } = begun;
  const read = () => readWeights(folder, weights, request, store, notes);
  const { bytes, cached } =
    (await kept) ?? (await (store ? inTurn(`slimvit-${weights.sha256}`, read, signal) : read()));
  throwIfAborted(signal);
  const told = report(request, weights, weights.bytes, cached);
  const model = readModel(manifest, weights.dtype, bytes, folder.nameOf(weights.file));
  if (cache && before !== text) await keepManifest(cache, name, text, before).catch(() => {}); // only one that its weights bear out
  await told;
  return { model, notes };
}

/** For a visit without a network. The weights of the version before are not waited for any more, and go. */
async function keepManifest(cache: Cache, name: string, text: string, before = ""): Promise<void> {
  await cache.put(name, new Response(text));
  for (const [sha256] of before.matchAll(/\b[0-9a-f]{64}\b/g)) {
    if (!text.includes(sha256)) await cache.delete(keyOf(sha256));
  }
}

/** What "auto" prefers, best first: the one place that knows which weights suit an engine. */
function dtypeOrder(engine: EngineName | "auto"): WeightsDtype[] {
  return engine === "simd" ? ["int8", "f16", "f32"] : ["f16", "f32", "int8"];
}

function chooseWeights(
  { weights }: Manifest,
  dtype: WeightsDtype | "auto",
  engine: EngineName | "auto",
  name: string,
): WeightsFile {
  for (const want of dtype === "auto" ? dtypeOrder(engine) : [dtype]) {
    const found = weights.find((entry) => entry.dtype === want);
    if (found) return found;
  }
  const there = weights.map((entry) => entry.dtype).join(", ");
  if (!there) throw new SlimViTError("bad-model", `${name}: lists no weights; make some with "slimvit export".`);
  throw new SlimViTError("bad-option", `${name}: has no ${String(dtype)} weights; dtype can be "auto" or ${there}.`);
}

interface Weights {
  bytes: Uint8Array;
  /** they were in the store */
  cached: boolean;
}

async function readWeights(
  folder: Folder,
  weights: WeightsFile,
  request: LoadRequest,
  store: WeightsStore | undefined,
  notes: string[],
): Promise<Weights> {
  const { file, bytes: exactly, unpackedBytes, sha256 } = weights;
  const kept = await fromStore(store, sha256);
  if (kept) return kept;
  const onBytes = (count: number) => void (count < exactly && report(request, weights, count));
  let bytes = await folder.read(file, { exactly, onBytes });
  if (file.endsWith(".zz")) bytes = await unpack(bytes, folder.nameOf(file), unpackedBytes);
  const found = await digest(bytes);
  throwIfAborted(request.signal);
  if (found !== sha256) {
    throw new SlimViTError(
      "integrity",
      `${folder.nameOf(file)}: its sha256 is ${found}; ${MANIFEST} promises ${sha256}. ` +
        "It is damaged or of another version: publish both again.",
    );
  }
  await store?.put(sha256, bytes).catch((error) => {
    notes.push(`The weights are not kept for the next visit (${messageOf(error)}).`); // no quota, perhaps
  });
  return { bytes, cached: false };
}

async function report(
  { onProgress }: LoadRequest,
  { file, bytes: totalBytes }: WeightsFile,
  loadedBytes = totalBytes,
  cached = false,
): Promise<void> {
  try {
    await onProgress?.({ file, loadedBytes, totalBytes, cached });
  } catch {} // the caller's own affair
}

/** Workers and tabs that want the same file wait for the first, then find it in the store. Insecure origins have no locks. */
export async function inTurn<T>(name: string, work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
  let turn: Promise<T> | undefined;
  try {
    await globalThis.navigator?.locks?.request(name, { signal }, () => (turn = work()));
  } catch {
    throwIfAborted(signal);
  }
  return turn ?? work();
}

/** The kept bytes if they are whole; a store that fails or has the wrong bytes is as good as an empty one. */
async function fromStore(store: WeightsStore | undefined, sha256: string): Promise<Weights | undefined> {
  try {
    const bytes = await store?.get(sha256);
    return bytes instanceof Uint8Array && (await digest(bytes)) === sha256 ? { bytes, cached: true } : undefined;
  } catch {
    return undefined;
  }
}

/** @returns undefined on insecure origins, and where the browser refuses */
async function openCache(notes: string[]): Promise<Cache | undefined> {
  try {
    return await caches.open(CACHE);
  } catch (error) {
    notes.push(
      `The weights are not kept for the next visit: the Cache API (https only) cannot be used here (${messageOf(error)}).`,
    );
    return undefined;
  }
}

function storeIn(cache: Cache): WeightsStore {
  return {
    async get(sha256) {
      const blob = await (await cache.match(keyOf(sha256)))?.blob(); // in two steps, which takes two thirds of the time
      return blob && new Uint8Array(await blob.arrayBuffer());
    },
    put: (sha256, bytes) => cache.put(keyOf(sha256), new Response(bytes as Uint8Array<ArrayBuffer>)),
  };
}

/** zlib → what is in it, of a size that was promised. */
async function unpack(bytes: Uint8Array, name: string, exactly?: number): Promise<Uint8Array> {
  try {
    return await collect(inflating(bytes, "deflate"), name, { exactly });
  } catch (error) {
    if (error instanceof SlimViTError) throw error;
    throw new SlimViTError("integrity", `${name}: cannot be unpacked (${messageOf(error)}).`, { cause: error });
  }
}

async function collect(stream: ReadableStream<Uint8Array>, name: string, how: ReadOptions, signal?: AbortSignal) {
  const buffer = new Collector(name, how);
  const reader = stream.getReader();
  for (;;) {
    throwIfAborted(signal);
    const { done, value } = await reader.read();
    if (done) return buffer.finish("integrity");
    buffer.add(value);
  }
}

/** Of weights in the cache; never fetched. */
function keyOf(sha256: string): string {
  return `https://slimvit.invalid/${sha256}`;
}

/** @returns lower-case hex; insecure origins have no crypto.subtle */
export async function digest(bytes: Uint8Array): Promise<string> {
  const subtle = globalThis.crypto?.subtle;
  const hash = subtle
    ? new Uint8Array(await subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>))
    : sha256(bytes);
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

interface Folder {
  /** worth caching */
  remote: boolean;
  /** how messages call a file */
  nameOf(file: string): string;
  read(file: string, how: ReadOptions): Promise<Uint8Array>;
}

async function openFolder(source: Source, signal?: AbortSignal): Promise<Folder> {
  if ("files" in source) return folderOfFiles(source.files, signal);
  return source.url.startsWith("file:") ? folderOnDisk(source.url, signal) : folderOfUrl(source.url, signal);
}

function folderOfUrl(base: string, signal?: AbortSignal): Folder {
  const nameOf = (file: string) => new URL(file, base).href;
  return { remote: true, nameOf, read: (file, how) => download(nameOf(file), how, signal) };
}

function folderOfFiles(files: { name: string; blob: Blob }[], signal?: AbortSignal): Folder {
  const names = files.map((file) => file.name).join(", ") || "none";
  return {
    remote: false,
    nameOf: (file) => file,
    async read(name, how) {
      const file = files.find((candidate) => candidate.name === name);
      if (!file) throw new SlimViTError("bad-model", `${name}: is not among the files given (${names}).`);
      return collect(file.blob.stream(), name, how, signal);
    },
  };
}

async function folderOnDisk(url: string, signal?: AbortSignal): Promise<Folder> {
  const { readFile } = (await importNode("node:fs/promises")) as typeof import("node:fs/promises");
  const { fileURLToPath } = (await importNode("node:url")) as typeof import("node:url");
  const nameOf = (file: string) => fileURLToPath(new URL(file, url));
  return {
    remote: false,
    nameOf,
    async read(file, how) {
      const path = nameOf(file);
      let content: Uint8Array;
      try {
        content = await readFile(path, { signal });
      } catch (error) {
        throwIfAborted(signal);
        throw new SlimViTError("bad-model", `${path}: cannot be read (${messageOf(error)}).`, { cause: error });
      }
      const buffer = new Collector(path, how);
      buffer.add(content);
      return buffer.finish("integrity");
    },
  };
}

/** By a variable, as bundlers would look for Node's modules in a browser. */
function importNode(name: "node:fs/promises" | "node:url"): Promise<unknown> {
  return import(/* @vite-ignore */ /* webpackIgnore: true */ name);
}
