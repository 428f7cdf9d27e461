/** Loads a model: folder → manifest → weights → checked tensors. */
import { messageOf, SlimViTError, throwIfAborted } from "../errors.ts";
import type { Manifest, Model, Variant, WeightsFile } from "../format/model.ts";
import { MAX_MANIFEST_BYTES, readManifest, readModel } from "../format/read.ts";
import { withVariant } from "../format/variants.ts";
import type { LoadLinks, LoadRequest } from "../protocol.ts";
import { CACHE } from "./cache.ts";
import { keep, unpackChecked, type WeightsLoad } from "./checkedWeights.ts";
import { chooseWeights, type WeightsChoice } from "./chooseWeights.ts";
import { MANIFEST } from "./collector.ts";
import { type Folder, openFolder } from "./folders.ts";
import { inTurn } from "./inTurn.ts";
import { keepManifest, readKeptManifest } from "./manifestCache.ts";
import { reportProgress } from "./progress.ts";
import { readKept, storeIn, type Weights } from "./weightsStore.ts";

export interface LoadedModel {
  model: Model;
  dtypeReason: string;
  /** what could not be done here, for people */
  notes: string[];
  /**
   * With dtype "auto": loads the next best weights.
   *
   * @param fault why the present weights are not used
   */
  loadNext?: (fault: string) => Promise<LoadedModel>;
  /** of a folder with several */
  variants?: VariantLoader;
}

/** Variants in the same weights. */
export interface VariantLoader {
  /** Loads a variant; only the slabs that are not there yet are fetched. */
  loadVariant(name: string): Promise<Model>;
  /** Lets the weights' bytes go; `loadVariant` reads them again. */
  release(): void;
}

type Request = Pick<LoadRequest, "source" | "engine" | "dtype" | "variant" | "cache">;
type Links = LoadLinks & {
  signal?: AbortSignal;
  /** Opens folders with several variants. */
  openVariants?: (manifest: Manifest, weights: WeightsFile, load: WeightsLoad) => Promise<VariantLoader>;
};

/** The data that all steps of a load share. */
interface Load extends Links {
  request: Request;
  folder: Folder;
  /** the browser's, where manifests are kept; weights too, unless the app has a store of its own */
  browserCache?: Cache;
  notes: string[];
}

/** A manifest, the weights that were chosen by it, and their reader. */
interface Plan {
  text: string;
  manifest: Manifest;
  choices: WeightsChoice[];
  /** the first choice of a folder with one variant */
  kept?: Promise<Weights | undefined>;
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
    // a manifest is kept only after its weights have passed their check
    await keepManifest(load.browserCache, folder.nameOf(MANIFEST), text, keptText);
  return loaded;
}

async function readManifestText(folder: Folder): Promise<string> {
  return new TextDecoder().decode(await folder.read(MANIFEST, { limit: MAX_MANIFEST_BYTES }));
}

/** The manifest of a server that answers is always used; the kept one counts only without a network. */
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
  const { variant = cheapest(listed.variants).name } = request; // null, as of a parameter that an address lacks, is no name
  const manifest = withVariant(listed, variant);
  const choices = chooseWeights(manifest, request.dtype, request.engine, name);
  const isWhole = manifest.variants.length === 1;
  return { text, manifest, choices, kept: isWhole ? readKept(load.store, choices[0].weights.sha256) : undefined };
}

/** The variant that is loaded first: it needs the fewest slabs and among those the fewest MACs. */
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
  const variants = manifest.variants.length > 1 ? await load.openVariants!(manifest, weights, load) : undefined;
  const model = variants
    ? await variants.loadVariant(manifest.variant)
    : await readWhole(manifest, weights, load, rank === 0 ? plan.kept : undefined);
  const loaded: LoadedModel = { model, dtypeReason: reason, notes: load.notes, variants };
  if (rank + 1 < choices.length) {
    loaded.loadNext = (fault) => {
      load.notes.push(`The ${weights.dtype} weights are not used ${fault}`);
      return loadWeights(plan, rank + 1, load);
    };
  }
  return loaded;
}

/** Reads a whole weights file. With a store, workers and tabs that want the same file download it once. */
async function readWhole(
  manifest: Manifest,
  weights: WeightsFile,
  load: Load,
  kept?: Promise<Weights | undefined>,
): Promise<Model> {
  const { store, signal, folder } = load;
  const { file, bytes: totalBytes, sha256, dtype } = weights;
  const read = async () => (await readKept(store, sha256)) ?? download();
  const download = async (): Promise<Weights> => {
    const onBytes = (loadedBytes: number) => {
      // The last report comes when they are checked.
      if (loadedBytes < totalBytes) void reportProgress(load, { file, loadedBytes, totalBytes, cached: false });
    };
    const packed = await folder.read(file, { exactly: totalBytes, onBytes });
    const bytes = await unpackChecked(packed, weights, folder.nameOf(file), signal);
    await keep(load, sha256, bytes);
    return { bytes, cached: false };
  };
  const { bytes, cached } = (await kept) ?? (await (store ? inTurn(`slimvit-${sha256}`, read, signal) : read()));
  throwIfAborted(signal);
  const reported = reportProgress(load, { file, loadedBytes: totalBytes, totalBytes, cached });
  const model = readModel(manifest, dtype, bytes, folder.nameOf(file));
  await reported;
  return model;
}

/** @returns undefined on insecure origins, and where the browser refuses */
async function openBrowserCache(notes: string[]): Promise<Cache | undefined> {
  try {
    return await caches.open(CACHE);
  } catch (error) {
    notes.push(
      `The weights are not kept for the next visit, as the Cache API (https only) does not work here (${messageOf(error)}).`,
    );
    return undefined;
  }
}
