/**
 * slimvit compress SEARCH -o MODEL --attn B --mlp B --patch B, or --macs R, or --params R, or --latency-ms T --profile
 * device.json: cuts a slim model by the masks of a search. With --budgets R,R,… it makes a folder of models, one for
 * each share of the cost. ζ is folded into the weights once. Heads, channels, units and tokens below their family's
 * threshold are removed.
 */
import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { SlimViTError } from "../../src/errors.ts";
import {
  type Architecture,
  countMacs,
  countParams,
  innerDim,
  type Manifest,
  type Model,
  type Tensors,
  tensorShapes,
  tokenCounts,
} from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { openDataset, type Split } from "../data/data.ts";
import {
  architectureOf,
  claimOutput,
  readManifestFile,
  readModelFolder,
  withStep,
  writeModel,
} from "../models/folders.ts";
import { percent, say, si } from "../shared/terminal.ts";
import { type BackendName, openBackend } from "../training/backend.ts";
import { allocate } from "./allocate.ts";
import { compensate } from "./compensate.ts";
import { costFunction, FLAG, goalOf, type Target, targetOf, toTarget } from "./costTarget.ts";
import { againstMasked, foldTensors } from "./fold.ts";
import { predictMs, readProfile } from "./latency.ts";
import {
  type BlockMask,
  type BlockZeta,
  type Budgets,
  cutTensors,
  hardenMasks,
  type MaskMode,
  mergesTokens,
  slimArchitecture,
  type TokenRule,
} from "./masks.ts";
import { cutWithMerges } from "./mergeChoice.ts";
import { withMerges } from "./mergeSchedule.ts";
import { IMPORTANCE_FILE, readMasks, readSearchOptions, ZETA_FILE } from "./searched.ts";

export interface CompressOptions extends Partial<Budgets> {
  /** share of the dense MACs, instead of three budgets; `true` where `budgets` has the shares */
  macs?: number | true;
  /** the same of the dense parameters */
  params?: number | true;
  /** instead: milliseconds on the device of `profile` */
  latencyMs?: number;
  /** what `slimvit profile` measured */
  profile?: string;
  /** shares of MACs or parameters: a model for each, in a folder of its own under `out` */
  budgets?: number[];
  out: string;
  tokens: TokenRule;
  absolute?: boolean;
  /** model folder whose weights are cut, unfolded, in place of the search's; the search then only chooses what goes */
  weights?: string;
  /**
   * The next linears are solved again for the kept inputs, from their activations on the pictures of `data`. This also
   * works for a model that was not searched.
   */
  compensate?: boolean;
  /**
   * With a target of MACs or milliseconds: tokens may merge instead of being dropped by masks, where that diverges less
   * on the pictures of `data`.
   */
  merge?: boolean;
  data?: string[];
  split?: Split;
  backend?: BackendName;
  name?: string;
  force?: boolean;
}

export interface CompressReport {
  out: string;
  params: number;
  macs: number;
  /** share of the dense model's */
  macsShare: number;
  paramsShare: number;
  /** with `latencyMs`: the slim model's time that the profile predicts */
  predictedMs?: number;
  /** largest difference of a logit, or of an embedding's number, between the slim model and the same weights with the cut parts multiplied by zero; not with `compensate` */
  maxAbsDiff?: number;
}

/** @returns one report, or with `budgets` one for each budget, from the smallest cut to the largest */
export async function compress(source: string, options: CompressOptions): Promise<CompressReport | CompressReport[]> {
  const target = targetOf(options);
  if (!options.budgets) {
    if (target?.share === true)
      throw new SlimViTError("bad-option", `compress: give --${target.cost} a share, or --budgets a list of shares.`);
    return compressOne(source, options, target as Target | undefined);
  }
  const cost = target?.cost ?? "macs";
  if (options.attn !== undefined || options.mlp !== undefined || options.patch !== undefined)
    throw new SlimViTError(
      "bad-option",
      "compress: --budgets are shares of MACs or parameters; leave out --attn, --mlp and --patch.",
    );
  const shares = typeof target?.share === "number" ? [...options.budgets, target.share] : options.budgets;
  const reports: CompressReport[] = [];
  for (const share of [...new Set(shares)].sort((a, b) => b - a)) {
    const folder = `${cost}-${Number((100 * share).toFixed(4))}`;
    const name = `${options.name ?? basename(resolve(options.out))}-${folder}`;
    reports.push(await compressOne(source, { ...options, name, out: join(options.out, folder) }, { cost, share }));
  }
  return reports;
}

async function compressOne(
  source: string,
  options: CompressOptions,
  target: Target | undefined,
): Promise<CompressReport> {
  claimOutput(options.out, options.force, [source, options.weights, options.profile], options.data);
  const searched = readModelFolder(source);
  const cut = options.compensate
    ? await cutAndCompensate(source, searched, options, target)
    : await cutAlone(source, searched, options, target);
  const { manifest } = searched;
  const arch = architectureOf(manifest);
  const slim = slimWith(manifest, cut);
  const classes = slim.labels.length;
  const [macs, denseMacs] = [countMacs(slim, classes), countMacs(arch, classes)];
  const [params, denseParams] = [countParams(slim, classes), countParams(arch, classes)];
  const predictedMs = options.profile && predictMs(readProfile(options.profile, arch), slim);
  const { format: _, weights: __, ...draft } = slim;
  const name = options.name ?? basename(resolve(options.out));
  const provenance = compressProvenance(slim, arch, options, target, cut.recorded);
  const content = {
    draft: { ...draft, name, provenance, metrics: {} },
    tensors: cut.tensors,
    dtypes: ["f32" as const],
  };
  await writeModel(options.out, content, options.force);

  const kept = (of: (net: Architecture) => number) => `${of(slim)} of ${of(arch)}`;
  const closeness =
    cut.maxAbsDiff === undefined
      ? "the next linears solved again for the kept inputs"
      : `${slim.head ? "logits" : "embeddings"} within ${cut.maxAbsDiff.toExponential(1)} of the masked model`;
  say(
    `compress: kept ${kept(({ blocks }) => sum(blocks.map(innerDim)))} head channels, ` +
      `${kept(({ blocks }) => sum(blocks.map((b) => b.mlpHidden)))} MLP units, ` +
      `${kept((net) => sum(tokenCounts(net).map((count) => count.entering)))} tokens` +
      `${cut.merges?.some((pairs) => pairs > 0) ? `, by merging ${cut.merges.join(", ")} pairs` : ""}; ` +
      `${si(macs)} MACs (${percent(macs / denseMacs)}), ${si(params)} parameters (${percent(params / denseParams)}); ` +
      closeness +
      (predictedMs ? `; ${predictedMs.toFixed(2)} ms predicted` : ""),
  );
  return {
    out: options.out,
    params,
    macs,
    macsShare: macs / denseMacs,
    paramsShare: params / denseParams,
    ...(predictedMs && { predictedMs }),
    ...(cut.maxAbsDiff !== undefined && { maxAbsDiff: cut.maxAbsDiff }),
  };
}

/** The cut model and the record of the cut for its provenance. */
interface CutModel {
  masks: BlockMask[];
  merges?: number[];
  tensors: Tensors;
  maxAbsDiff?: number;
  recorded?: Record<string, unknown>;
}

function slimWith(manifest: Manifest, { masks, merges }: Pick<CutModel, "masks" | "merges">): Manifest {
  const slim = slimArchitecture(manifest, masks);
  return merges ? withMerges(slim, merges) : slim;
}

async function cutAlone(
  source: string,
  searched: Model,
  options: CompressOptions,
  target: Target | undefined,
): Promise<CutModel> {
  const { masks, folded, ...merged } = await searchedCut(source, searched, options, target);
  const tensors = cutTensors(architectureOf(searched.manifest), folded, masks);
  const manifest = slimArchitecture(searched.manifest, masks);
  const maxAbsDiff = againstMasked(searched, folded, masks, { manifest, dtype: "f32", tensors });
  return { masks, tensors, maxAbsDiff, ...merged };
}

/** Cuts a searched model by its masks, and with `merge` also by merging tokens. */
async function searchedCut(
  source: string,
  searched: Model,
  options: CompressOptions,
  target: Target | undefined,
): Promise<Pick<CutModel, "masks" | "merges" | "recorded"> & { folded: Tensors }> {
  const { mode, zetas } = readMasks(source, ZETA_FILE, searched.manifest);
  const folded = options.weights ? sameShaped(options.weights, searched) : foldTensors(searched, zetas);
  if (!options.merge) return { masks: chooseMasks(source, searched, mode, zetas, options, target), folded };
  const { data, split = "train" } = options;
  if (!target || target.cost === "params")
    throw new SlimViTError("bad-option", "compress: --merge needs --macs or --latency-ms, which merged tokens lower.");
  if (!data?.length) throw new SlimViTError("bad-option", "compress: --merge needs pictures; give --data.");
  const { manifest } = searched;
  if (mergesTokens(manifest) || manifest.position === "relative")
    throw new SlimViTError(
      "bad-option",
      `compress: --merge: the tokens of ${source} ${manifest.position === "relative" ? "have relative positions and cannot merge" : "merge already"}.`,
    );
  const costOf = costFunction(target.cost, options.profile, manifest, manifest.labels.length);
  const whole: Model = { manifest, dtype: "f32", tensors: folded };
  const dense = costOf(manifest);
  const masksFor = (goal: number, mayDropPatches: boolean) => {
    const aim = { cost: target.cost, share: target.cost === "macs" ? goal / dense : goal };
    return chooseMasks(source, searched, mode, zetas, options, aim, !mayDropPatches);
  };
  const { pictures } = await openDataset(data, split);
  const cut = await cutWithMerges({ whole, costOf, goal: goalOf(target, dense), masksFor }, pictures);
  return { ...cut, folded, recorded: { merge: cut.merges, data: data.map((path) => basename(path)), split } };
}

/**
 * Chooses the cut of a searched model by its masks, and that of any other model by what the kept channels and units
 * compensate best.
 */
async function cutAndCompensate(
  source: string,
  searched: Model,
  options: CompressOptions,
  target: Target | undefined,
): Promise<CutModel> {
  const { data, split = "train", attn = 1, mlp = 1, patch = 1, backend } = options;
  const { manifest } = searched;
  if (!data?.length) throw new SlimViTError("bad-option", "compress: --compensate needs pictures; give --data.");
  const ragged = manifest.blocks.findIndex(({ headDims }) => headDims.some((width) => width !== manifest.headDim));
  if (ragged >= 0)
    throw new SlimViTError(
      "bad-input",
      `${source}: the heads of block ${ragged} are cut already; --compensate starts from whole heads of ${manifest.headDim} channels.`,
    );
  const isSearch = existsSync(join(source, ZETA_FILE));
  if (!isSearch && (target || patch !== 1))
    throw new SlimViTError(
      "bad-option",
      `compress: ${source} has no searched masks; without them --compensate cuts by --attn and --mlp alone.`,
    );
  const { pictures } = await openDataset(data, split);
  const { tf } = await openBackend(backend);
  const recorded = { compensate: { data: data.map((path) => basename(path)), split } };
  if (!isSearch) {
    const whole = { manifest, tensors: encodeTensors(searched.tensors, "f32") };
    return { ...(await compensate(tf, whole, { attn, mlp }, pictures)), recorded };
  }
  const { masks, folded, merges, recorded: chosen } = await searchedCut(source, searched, options, target);
  const lists = slimArchitecture(manifest, masks).blocks;
  const blocks = manifest.blocks.map((block, i) => ({ ...block, keepIdx: lists[i].keepIdx }));
  const whole = { manifest: { ...manifest, blocks }, tensors: folded };
  return { ...(await compensate(tf, whole, masks, pictures)), merges, recorded: { ...chosen, ...recorded } };
}

function compressProvenance(
  slim: Manifest,
  arch: Architecture,
  options: CompressOptions,
  target: Target | undefined,
  recorded: CutModel["recorded"],
): Record<string, unknown> {
  const { attn, mlp, patch, tokens: rule, absolute } = options;
  const how = target ? { [target.cost]: target.share } : { attn, mlp, patch, rule, absolute: absolute ?? false };
  const dense = { heads: arch.blocks[0].headDims.length, mlpHidden: arch.blocks.map((b) => b.mlpHidden) };
  const weights = options.weights && { weights: readManifestFile(options.weights).name };
  return withStep({ ...slim.provenance, dense }, "compress", { ...how, ...weights, ...recorded });
}

function sameShaped(source: string, { manifest }: Model): Tensors {
  const other = readModelFolder(source);
  const shape = (arch: Architecture) => JSON.stringify([...tensorShapes(arch, manifest.labels.length)]);
  if (shape(other.manifest) !== shape(manifest) || other.manifest.labels.length !== manifest.labels.length) {
    throw new SlimViTError(
      "bad-input",
      `${source}: is not the architecture that was searched; --weights takes the dense model it started from.`,
    );
  }
  return new Map(
    [...other.tensors].map(([name, { shape }]) => [name, { dtype: "F32", shape, data: float32(other.tensors, name) }]),
  );
}

/**
 * Chooses masks by three rankings of ζ, or by one target and importance per MAC.
 *
 * @param keepsPatches whether a target leaves all patches
 */
function chooseMasks(
  source: string,
  searched: Model,
  mode: MaskMode,
  zetas: BlockZeta[],
  options: CompressOptions,
  target: Target | undefined,
  keepsPatches = false,
): BlockMask[] {
  const arch = architectureOf(searched.manifest);
  const { attn, mlp, patch } = options;
  if (target) {
    if (attn !== undefined || mlp !== undefined || patch !== undefined) {
      throw new SlimViTError(
        "bad-option",
        `compress: --${FLAG[target.cost]} takes the place of --attn, --mlp and --patch; give one or the other.`,
      );
    }
    const { zetas: importance } = readMasks(source, IMPORTANCE_FILE, searched.manifest);
    const { wAttn, wMlp, wPatch } = readSearchOptions(source);
    const frozen = { attn: wAttn === 0, mlp: wMlp === 0, patch: keepsPatches || wPatch === 0 };
    return toTarget(target, options.profile, arch, searched.manifest.labels.length, (cost, dense, share) =>
      allocate(arch, mode, importance, frozen, dense, share, cost),
    );
  }
  if (attn === undefined || mlp === undefined || patch === undefined) {
    throw new SlimViTError("bad-option", "compress: give --attn, --mlp and --patch, or --macs, or --params.");
  }
  if (patch < 1 && mergesTokens(arch))
    throw new SlimViTError(
      "bad-option",
      `compress: ${source} merges tokens, and merged tokens have no masks of their own; give --patch 1.`,
    );
  return hardenMasks(arch, zetas, { attn, mlp, patch }, { mode, rule: options.tokens, absolute: options.absolute })
    .blocks;
}

const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);
