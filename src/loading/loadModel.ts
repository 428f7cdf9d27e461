/** A model's way in: folder → manifest → weights → checked tensors. */
import { messageOf, SlimViTError, throwIfAborted } from "../errors.ts";
import type { Manifest, Model, Variant, WeightsFile } from "../format/model.ts";
import { MAX_MANIFEST_BYTES, readManifest, readModel } from "../format/read.ts";
import type { fromSlabs } from "../format/slabs.ts";
import { slabsOf, withVariant } from "../format/variants.ts";
import type { LoadLinks, LoadRequest, Progress } from "../protocol.ts";
import { CACHE } from "./cache.ts";
import { chooseWeights, type WeightsChoice } from "./chooseWeights.ts";
import { MANIFEST } from "./collector.ts";
import { type Folder, openFolder } from "./folders.ts";
import { keepManifest, readKeptManifest } from "./manifestCache.ts";
import type { SlabReader } from "./slabReader.ts";
import { type WeightsReader, WholeReader } from "./weightsReader.ts";
import { storeIn } from "./weightsStore.ts";

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
  /** Another variant in the same weights. Only what it adds to what was read is fetched. */
  loadVariant(name: string): Promise<Model>;
  /** Lets the weights' bytes go; `loadVariant` reads them again. */
  release(): void;
}

type Request = Pick<LoadRequest, "source" | "engine" | "dtype" | "variant" | "cache">;
type Links = LoadLinks & {
  signal?: AbortSignal;
  /** Reads files of several variants. */
  loadFamily?: () => Promise<{ fromSlabs: typeof fromSlabs; SlabReader: typeof SlabReader }>;
};

/** What all steps of a load share. */
interface Load extends Links {
  request: Request;
  folder: Folder;
  /** the browser's, where manifests are kept; weights too, unless the app has a store of its own */
  browserCache?: Cache;
  notes: string[];
}

/** A manifest, the weights chosen by it, and what reads them. */
interface Plan {
  text: string;
  manifest: Manifest;
  choices: WeightsChoice[];
  /** of the first choice */
  reader: Promise<WeightsReader>;
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
function makePlan(text: string, load: Load): Plan {
  const { request, folder } = load;
  const name = folder.nameOf(MANIFEST);
  const listed = readManifest(text, name);
  const manifest = withVariant(listed, request.variant ?? cheapest(listed.variants).name);
  const choices = chooseWeights(manifest, request.dtype, request.engine, name);
  const reader = readerOf(choices[0].weights, load);
  reader.then((one) => one.lookUp(countSlabs(manifest, choices[0].weights))).catch(() => {}); // reported where it is read
  return { text, manifest, choices, reader };
}

/** It comes first over the network: of the fewest slabs, and of those the one with the fewest MACs. */
function cheapest(variants: Variant[]): Variant {
  return [...variants].sort((a, b) => (a.slabs ?? 1) - (b.slabs ?? 1) || a.macs - b.macs)[0];
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
  const reader = await (rank === 0 ? plan.reader : readerOf(weights, load));
  const loadVariant = async (name: string) => {
    const selected = withVariant(manifest, name);
    const slabs = await readSlabs(reader, selected, weights, load);
    const family = manifest.variants.length > 1 ? await load.loadFamily?.() : undefined;
    return readModel(selected, weights.dtype, slabs, load.folder.nameOf(weights.file), family?.fromSlabs);
  };
  const model = await loadVariant(manifest.variant);
  const loaded: LoadedModel = {
    model,
    dtypeReason: reason,
    notes: load.notes,
    loadVariant,
    release: () => reader.release(),
  };
  if (rank + 1 < choices.length) {
    loaded.loadNext = (fault) => {
      load.notes.push(`The ${weights.dtype} weights are not used ${fault}`);
      return loadWeights(plan, rank + 1, load);
    };
  }
  return loaded;
}

/** Those that the selected variant is made of. */
async function readSlabs(
  reader: WeightsReader,
  manifest: Manifest,
  weights: WeightsFile,
  load: Load,
): Promise<Uint8Array[]> {
  const count = countSlabs(manifest, weights);
  const { file } = weights;
  const totalBytes = reader.bytesOf(count);
  const { slabs, cached } = await reader.first(count, (loadedBytes) => {
    if (loadedBytes < totalBytes) void reportProgress(load, { file, loadedBytes, totalBytes, cached: false });
  });
  await reportProgress(load, { file, loadedBytes: totalBytes, totalBytes, cached });
  return slabs;
}

async function readerOf(weights: WeightsFile, load: Load): Promise<WeightsReader> {
  return weights.slabs ? new (await load.loadFamily!()).SlabReader(weights, load) : new WholeReader(weights, load);
}

const countSlabs = (manifest: Manifest, weights: WeightsFile) => slabsOf(manifest, weights)?.length ?? 1;

/** What the caller's function throws is the caller's own affair. */
async function reportProgress({ onProgress }: Load, progress: Progress): Promise<void> {
  try {
    await onProgress?.(progress);
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
