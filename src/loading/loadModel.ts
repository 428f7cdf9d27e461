/** A model's way in: folder → manifest → weights → checked tensors. */
import { messageOf, SlimViTError, throwIfAborted } from "../errors.ts";
import type { Manifest, Model, WeightsFile } from "../format/model.ts";
import { MAX_MANIFEST_BYTES, readManifest, readModel } from "../format/read.ts";
import { withVariant } from "../format/variants.ts";
import type { LoadLinks, LoadRequest } from "../protocol.ts";
import { CACHE } from "./cache.ts";
import { chooseWeights, type WeightsChoice } from "./chooseWeights.ts";
import { collect, MANIFEST } from "./collector.ts";
import { digest } from "./digest.ts";
import { type Folder, openFolder } from "./folders.ts";
import { inflating } from "./inflate.ts";
import { inTurn } from "./inTurn.ts";
import { keepManifest, readKeptManifest } from "./manifestCache.ts";
import { readKept, storeIn, type Weights } from "./weightsStore.ts";

export interface LoadedModel {
  model: Model;
  dtypeReason: string;
  /** what could not be done here, for people */
  notes: string[];
  /**
   * With dtype "auto": loads the next best weights.
   *
   * @param fault why these weights will not do
   */
  loadNext?: (fault: string) => Promise<LoadedModel>;
}

type Request = Pick<LoadRequest, "source" | "engine" | "dtype" | "variant" | "cache">;
type Links = LoadLinks & { signal?: AbortSignal };

/** What all steps of a load share. */
interface Load extends Links {
  request: Request;
  folder: Folder;
  /** the browser's, where manifests are kept; weights too, unless the app has a store of its own */
  browserCache?: Cache;
  notes: string[];
}

/** A manifest, the weights chosen by it, and those of them that are kept from an earlier visit. */
interface Plan {
  text: string;
  manifest: Manifest;
  choices: WeightsChoice[];
  keptWeights: Promise<Weights | undefined>;
}

/**
 * Three waits overlap, because each can be the longest: the server's manifest, the browser's cache, and the weights in it.
 *
 * @param meanwhile work for this thread, begun when the manifest is there and the weights are being read
 * @throws SlimViTError `network`, `integrity`, `bad-model`, `bad-option`, `aborted`, `out-of-memory`
 */
export async function loadModel(request: Request, links: Links = {}, meanwhile?: () => void): Promise<LoadedModel> {
  throwIfAborted(links.signal);
  const folder = await openFolder(request.source, links.signal);
  const load: Load = { ...links, store: folder.isRemote ? links.store : undefined, request, folder, notes: [] };
  const opening = folder.isRemote && request.cache ? openBrowserCache(load.notes) : undefined;
  const fromServer = readManifestText(folder);
  fromServer.finally(meanwhile).catch(() => {}); // its failure is reported by the await below; here it must not be unhandled
  load.browserCache = await opening;
  if (load.browserCache) load.store ??= storeIn(load.browserCache);

  const keptText = await readKeptManifest(load.browserCache, folder.nameOf(MANIFEST));
  const early = keptText === undefined ? undefined : planFromKept(keptText, load);
  const text = await newest(fromServer, keptText);
  const plan = early?.text === text ? early : makePlan(text, load);
  const loaded = await loadWeights(plan, 0, load);
  if (load.browserCache && keptText !== text)
    // only a manifest that its weights bear out is kept
    await keepManifest(load.browserCache, folder.nameOf(MANIFEST), text, keptText);
  return loaded;
}

async function readManifestText(folder: Folder): Promise<string> {
  return new TextDecoder().decode(await folder.read(MANIFEST, { limit: MAX_MANIFEST_BYTES }));
}

/** A server that answers is always believed; the kept manifest counts only without a network. */
async function newest(fromServer: Promise<string>, kept: string | undefined): Promise<string> {
  try {
    return await fromServer;
  } catch (error) {
    const isOffline = error instanceof SlimViTError && error.code === "network" && error.cause;
    if (isOffline && kept !== undefined) return kept;
    throw error;
  }
}

/** @throws SlimViTError `bad-model`, `bad-option` */
function makePlan(text: string, { request, folder, store }: Load): Plan {
  const name = folder.nameOf(MANIFEST);
  const listed = readManifest(text, name);
  const manifest = request.variant === undefined ? listed : withVariant(listed, request.variant);
  const choices = chooseWeights(manifest, request.dtype, request.engine, name);
  return { text, manifest, choices, keptWeights: readKept(store, choices[0].weights.sha256) };
}

/** The kept weights are read while the server is asked whether its manifest is still the same. */
function planFromKept(text: string, load: Load): Plan | undefined {
  try {
    return makePlan(text, load);
  } catch {
    return undefined; // the server's manifest is read anyway, and its faults are reported
  }
}

/** @param rank which of the plan's choices */
async function loadWeights(plan: Plan, rank: number, load: Load): Promise<LoadedModel> {
  const { manifest, choices } = plan;
  const { weights, reason } = choices[rank];
  const kept = rank === 0 ? await plan.keptWeights : undefined;
  const { bytes, cached } = kept ?? (await readOrDownload(weights, load));
  throwIfAborted(load.signal);
  const reported = reportProgress(load, weights, weights.bytes, cached);
  const model = readModel(manifest, weights.dtype, bytes, load.folder.nameOf(weights.file));
  await reported;
  const loaded: LoadedModel = { model, dtypeReason: reason, notes: load.notes };
  if (rank + 1 < choices.length) {
    loaded.loadNext = (fault) => {
      load.notes.push(`The ${weights.dtype} weights are not used ${fault}`);
      return loadWeights(plan, rank + 1, load);
    };
  }
  return loaded;
}

/** With a store, workers and tabs that want the same file download it once. */
function readOrDownload(weights: WeightsFile, load: Load): Promise<Weights> {
  const { store, signal } = load;
  const read = async () => (await readKept(store, weights.sha256)) ?? downloadWeights(weights, load);
  return store ? inTurn(`slimvit-${weights.sha256}`, read, signal) : read();
}

async function downloadWeights(weights: WeightsFile, load: Load): Promise<Weights> {
  const { file, bytes: exactly, unpackedBytes, sha256 } = weights;
  const { folder, store, notes, signal } = load;
  const onBytes = (count: number) => {
    if (count < exactly) void reportProgress(load, weights, count, false); // the last report comes when they are checked
  };
  let bytes = await folder.read(file, { exactly, onBytes });
  if (file.endsWith(".zz")) bytes = await unpack(bytes, folder.nameOf(file), unpackedBytes);
  const found = await digest(bytes);
  throwIfAborted(signal);
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

/** What the caller's function throws is the caller's own affair. */
async function reportProgress(load: Load, weights: WeightsFile, loadedBytes: number, cached: boolean): Promise<void> {
  try {
    await load.onProgress?.({ file: weights.file, loadedBytes, totalBytes: weights.bytes, cached });
  } catch {}
}

/** @returns undefined on insecure origins, and where the browser refuses */
async function openBrowserCache(notes: string[]): Promise<Cache | undefined> {
  try {
    return await caches.open(CACHE);
  } catch (error) {
    notes.push(
      `The weights are not kept for the next visit: the Cache API (https only) cannot be used here (${messageOf(error)}).`,
    );
    return undefined;
  }
}

/** zlib → its content, of a size that was promised. */
async function unpack(bytes: Uint8Array, name: string, exactly?: number): Promise<Uint8Array> {
  try {
    return await collect(inflating(bytes, "deflate"), name, { exactly });
  } catch (error) {
    if (error instanceof SlimViTError) throw error;
    throw new SlimViTError("integrity", `${name}: cannot be unpacked (${messageOf(error)}).`, { cause: error });
  }
}
