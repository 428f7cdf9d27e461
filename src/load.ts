/** Where models come from: a folder behind a URL, on Hugging Face, in a list of files, or on Node's disk. */
import type { EngineName } from "./engines/engine.ts";
import { messageOf, SlimViTError, throwIfAborted } from "./errors.ts";
import type { Manifest, Model, WeightsDtype, WeightsFile } from "./format/model.ts";
import { readManifest, readModel } from "./format/read.ts";

/** A folder's URL, `hf:owner/name` (or `hf:owner/name@revision`), the folder's files; in Node also its path. */
export type ModelSource = string | File[];

export interface Progress {
  file: string;
  loadedBytes: number;
  /** from slimvit.json, so it is known before the first byte */
  totalBytes: number;
}

/** Keeps weights between visits, by the sha256 that slimvit.json promises. What it returns is checked like a download. */
export interface WeightsStore {
  get(sha256: string): Promise<Uint8Array | ArrayBuffer | undefined>;
  put(sha256: string, bytes: Uint8Array): Promise<void>;
}

export interface CacheUse {
  /** off: not wanted or not there; failed: wanted, and the store refused */
  state: "hit" | "stored" | "off" | "failed";
  reason?: string;
}

export interface LoadContext {
  signal?: AbortSignal;
  onProgress?: (progress: Progress) => unknown;
  store?: WeightsStore;
}

export interface LoadChoice {
  engine?: EngineName | "auto";
  dtype?: WeightsDtype | "auto";
  /** false also turns `LoadContext.store` off */
  cache?: boolean;
}

const MANIFEST = "slimvit.json";
const MAX_MANIFEST_BYTES = 64 * 2 ** 20;

/** @throws SlimViTError `network`, `integrity`, `bad-model`, `bad-option`, `aborted`, `out-of-memory` */
export async function loadModel(
  source: ModelSource,
  choice: LoadChoice,
  context: LoadContext,
): Promise<{ model: Model; cache: CacheUse }> {
  const { signal } = context;
  throwIfAborted(signal);
  const folder = await openFolder(source, signal);
  const text = new TextDecoder().decode(await folder.read(MANIFEST, { limit: MAX_MANIFEST_BYTES }));
  const manifest = readManifest(text, folder.nameOf(MANIFEST));
  const weights = chooseWeights(manifest, choice, folder.nameOf(MANIFEST));
  const { bytes, cache } = await readWeights(folder, weights, choice.cache !== false, context);
  throwIfAborted(signal);
  return { model: readModel(manifest, weights.dtype, bytes, folder.nameOf(weights.file)), cache };
}

/** What "auto" prefers, best first: the one place that knows which weights suit an engine. */
function dtypeOrder(engine: EngineName | "auto"): WeightsDtype[] {
  return engine === "simd" ? ["int8", "f16", "f32"] : ["f16", "f32", "int8"];
}

function chooseWeights(
  { weights }: Manifest,
  { dtype = "auto", engine = "auto" }: LoadChoice,
  name: string,
): WeightsFile {
  const wanted = dtype === "auto" ? dtypeOrder(engine) : [dtype];
  for (const want of wanted) {
    const found = weights.find((entry) => entry.dtype === want);
    if (found) return found;
  }
  const there = weights.map((entry) => entry.dtype).join(", ");
  if (!there) throw new SlimViTError("bad-model", `${name}: lists no weights; make some with "slimvit export".`);
  throw new SlimViTError("bad-option", `dtype is ${JSON.stringify(dtype)}; ${name} has "auto" and ${there}.`);
}

async function readWeights(
  folder: Folder,
  { file, bytes: totalBytes, sha256 }: WeightsFile,
  wantsCache: boolean,
  { signal, onProgress, store: ownStore }: LoadContext,
): Promise<{ bytes: Uint8Array; cache: CacheUse }> {
  const report = async (loadedBytes: number) => onProgress?.({ file, loadedBytes, totalBytes });
  const { store, reason } = wantsCache && folder.remote ? openStore(ownStore) : { reason: undefined, store: undefined };

  const kept = await fromStore(store, sha256);
  if (kept) {
    await report(totalBytes);
    return { bytes: kept, cache: { state: "hit" } };
  }
  const bytes = await folder.read(file, { exactly: totalBytes, onBytes: (count) => void report(count).catch(() => {}) });
  const found = await digest(bytes);
  throwIfAborted(signal);
  if (found !== sha256) {
    throw new SlimViTError(
      "integrity",
      `${folder.nameOf(file)}: its sha256 is ${found}, ${MANIFEST} promises ${sha256}. ` +
        "The file is damaged or belongs to another version; publish both files again.",
    );
  }
  await report(totalBytes);
  if (!store) return { bytes, cache: { state: "off", ...(reason && { reason }) } };
  try {
    await store.put(sha256, bytes);
    return { bytes, cache: { state: "stored" } };
  } catch (error) {
    return { bytes, cache: { state: "failed", reason: messageOf(error) } }; // e.g. no quota: the model is loaded all the same
  }
}

/** The kept bytes if they are whole; a store that fails or has the wrong bytes is as good as an empty one. */
async function fromStore(store: WeightsStore | undefined, sha256: string): Promise<Uint8Array | undefined> {
  try {
    const kept = await store?.get(sha256);
    if (!kept) return undefined;
    const bytes = kept instanceof Uint8Array ? kept : new Uint8Array(kept);
    return (await digest(bytes)) === sha256 ? bytes : undefined;
  } catch {
    return undefined;
  }
}

function openStore(own?: WeightsStore): { store?: WeightsStore; reason?: string } {
  if (own) return { store: own };
  if (typeof caches === "undefined") return { reason: "The Cache API is not there; browsers offer it on https only." };
  const key = (sha256: string) => `https://slimvit.invalid/${sha256}`; // never fetched
  const open = () => caches.open("slimvit");
  return {
    store: {
      get: async (sha256) => (await (await open()).match(key(sha256)))?.arrayBuffer(),
      put: async (sha256, bytes) => (await open()).put(key(sha256), new Response(bytes as Uint8Array<ArrayBuffer>)),
    },
  };
}

/** @returns lower-case hex; insecure origins have no crypto.subtle */
async function digest(bytes: Uint8Array): Promise<string> {
  const subtle = globalThis.crypto?.subtle;
  const hash = subtle
    ? new Uint8Array(await subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>))
    : (await import("@noble/hashes/sha2.js")).sha256(bytes);
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

interface Folder {
  /** worth caching */
  remote: boolean;
  /** how messages call a file */
  nameOf(file: string): string;
  read(file: string, how: ReadOptions): Promise<Uint8Array>;
}

interface ReadOptions {
  /** the size the file must have … */
  exactly?: number;
  /** … or may have at most */
  limit?: number;
  onBytes?: (count: number) => void;
}

async function openFolder(source: ModelSource, signal?: AbortSignal): Promise<Folder> {
  if (typeof source !== "string") return folderOfFiles(source, signal);
  const hub = /^hf:([\w.-]+\/[\w.-]+?)(?:@([\w./-]+))?$/.exec(source);
  if (hub) return folderOfUrl(`https://huggingface.co/${hub[1]}/resolve/${hub[2] ?? "main"}/`, signal);
  if (/^hf:/.test(source)) {
    throw new SlimViTError("bad-option", `The model is ${JSON.stringify(source)}; expected hf:owner/name.`);
  }
  if (/^(https?|data|blob):/.test(source)) return folderOfUrl(source, signal);
  if (typeof process !== "undefined" && process.versions?.node) return folderOnDisk(source, signal);
  throw new SlimViTError("bad-option", `The model is ${JSON.stringify(source)}; expected the URL of its folder.`);
}

function folderOfUrl(source: string, signal?: AbortSignal): Folder {
  const base = new URL(source);
  base.pathname = base.pathname.replace(/\/slimvit\.json$/, "/").replace(/([^/])$/, "$1/");
  const urlOf = (file: string) => {
    const url = new URL(file, base);
    url.search = base.search; // the token of a signed URL
    return url.href;
  };
  return {
    remote: true,
    nameOf: (file) => new URL(file, base).href,
    read: (file, how) => download(urlOf(file), how, signal),
  };
}

async function download(url: string, how: ReadOptions, signal?: AbortSignal): Promise<Uint8Array> {
  const failed = (what: string, cause?: unknown) => {
    throwIfAborted(signal);
    return new SlimViTError("network", `${url}: ${what}`, { cause });
  };
  let response: Response;
  try {
    response = await fetch(url, { signal });
  } catch (error) {
    throw failed(`could not be fetched (${messageOf(error)}). Is it reachable, and does it allow this origin (CORS)?`, error);
  }
  if (!response.ok || !response.body) {
    throw failed(`answered ${response.status}. Expected a model folder with ${MANIFEST} and its weights.`);
  }
  const buffer = new Collector(url, how);
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      buffer.add(value);
    }
  } catch (error) {
    reader.cancel().catch(() => {});
    if (error instanceof SlimViTError) throw error;
    throw failed(`broke off after ${buffer.length} bytes (${messageOf(error)}).`, error);
  }
  return buffer.finish("network");
}

function folderOfFiles(files: File[], signal?: AbortSignal): Folder {
  const names = files.map((file) => file.name).join(", ") || "none";
  return {
    remote: false,
    nameOf: (file) => file,
    async read(name, how) {
      const file = files.find((candidate) => candidate.name === name);
      if (!file) throw new SlimViTError("bad-model", `${name} is not among the files given (${names}).`);
      const buffer = new Collector(name, how);
      const reader = file.stream().getReader();
      for (;;) {
        throwIfAborted(signal);
        const { done, value } = await reader.read();
        if (done) return buffer.finish("integrity");
        buffer.add(value);
      }
    },
  };
}

async function folderOnDisk(source: string, signal?: AbortSignal): Promise<Folder> {
  const { readFile } = (await importNode("fs/promises")) as typeof import("node:fs/promises");
  const { join } = (await importNode("path")) as typeof import("node:path");
  const { fileURLToPath } = (await importNode("url")) as typeof import("node:url");
  const root = source.startsWith("file:") ? fileURLToPath(source) : source;
  return {
    remote: false,
    nameOf: (file) => join(root, file),
    async read(file, how) {
      const path = join(root, file);
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

/** Hidden from bundlers, which would look for Node's modules in a browser. */
function importNode(name: string): Promise<unknown> {
  return import(/* @vite-ignore */ /* webpackIgnore: true */ `node:${name}`);
}

/** Joins the pieces of a file and holds them to the size that was promised. */
class Collector {
  length = 0;
  private bytes: Uint8Array;

  constructor(
    private readonly name: string,
    private readonly how: ReadOptions,
  ) {
    try {
      this.bytes = new Uint8Array(how.exactly ?? 2 ** 16);
    } catch (error) {
      throw new SlimViTError("out-of-memory", `${name}: ${how.exactly} bytes cannot be held (${messageOf(error)}).`);
    }
  }

  add(piece: Uint8Array): void {
    const { exactly, limit = Number.POSITIVE_INFINITY, onBytes } = this.how;
    const end = this.length + piece.length;
    if (end > (exactly ?? limit)) {
      const fault = exactly === undefined ? `is longer than ${limit} bytes` : `is longer than the ${exactly} bytes in ${MANIFEST}`;
      throw new SlimViTError(exactly === undefined ? "bad-model" : "integrity", `${this.name}: ${fault}.`);
    }
    if (end > this.bytes.length) {
      const larger = new Uint8Array(Math.max(end, 2 * this.bytes.length));
      larger.set(this.bytes.subarray(0, this.length));
      this.bytes = larger;
    }
    this.bytes.set(piece, this.length);
    this.length = end;
    onBytes?.(end);
  }

  /** @param code of a file that is too short */
  finish(code: "network" | "integrity"): Uint8Array {
    const { exactly } = this.how;
    if (exactly !== undefined && this.length < exactly) {
      throw new SlimViTError(code, `${this.name}: ended after ${this.length} of the ${exactly} bytes in ${MANIFEST}.`);
    }
    return this.bytes.subarray(0, this.length);
  }
}
