/**
 * slimvit thin MODEL --keep 7:128,10:64 -o OUT: the same weights with fewer tokens, without data or search. From block 7
 * on it keeps 128 patches, from block 10 on 64, evenly spread over the picture, or with --order centre the central ones.
 * Without --keep each block has as many patches as in MODEL, in other positions. --restore starts with every patch
 * again, --image-size with smaller pictures. --lists OTHER takes the keep-lists of another model, for instance learned
 * ones.
 */
import { basename, resolve } from "node:path";
import { SlimViTError } from "../../src/errors.ts";
import { type Architecture, countMacs, denseTokens, patchGrid } from "../../src/format/model.ts";
import { resampleKeepIdx, resizeModel } from "../checkpoints/resize.ts";
import { claimOutput, readManifestFile, readModelFolder, withStep, writeModel } from "../models/folders.ts";
import { percent, say, si } from "../shared/terminal.ts";
import { orderedPatches, type PatchOrder } from "./patchOrders.ts";

export interface ThinOptions {
  out: string;
  /** block → patches that it and all deeper ones keep at most */
  keep?: Map<number, number>;
  order: PatchOrder;
  /** every patch enters every block before `keep` is looked at, whatever the model has dropped */
  restore?: boolean;
  /** model folder whose keep-lists are taken, in place of `keep` and `order` */
  lists?: string;
  /** position embeddings and keep-lists are resampled to it first */
  imageSize?: [number, number];
  name?: string;
  force?: boolean;
}

export interface ThinReport {
  out: string;
  macs: number;
  /** of the source model's */
  macsShare: number;
  /** tokens that enter each block, prefix tokens among them */
  tokens: number[];
}

export async function thin(source: string, options: ThinOptions): Promise<ThinReport> {
  const { out, keep, order, restore, lists, imageSize, name, force } = options;
  claimOutput(out, force, [source, lists]);
  const original = readModelFolder(source);
  const model = resizeModel(original, imageSize ?? original.manifest.imageSize);
  const { tensors } = model;
  const manifest = restore ? { ...model.manifest, blocks: withEveryPatch(model.manifest) } : model.manifest;
  const blocks = lists ? withListsOf(lists, manifest) : withFirst(patchCounts(manifest, keep), order, manifest);
  const { format: _, weights: __, ...draft } = manifest;
  const step = {
    ...(lists ? { lists: basename(resolve(lists)) } : { order }),
    ...(restore && { restore }),
    ...(model !== original && { imageSize, imageSizeBefore: original.manifest.imageSize }),
    ...(keep && { keep: Object.fromEntries(keep) }),
  };
  const provenance = withStep(manifest.provenance, "thin", step);
  const thinned = {
    ...draft,
    name: name ?? basename(resolve(out)),
    blocks,
    provenance,
    metrics: {},
  };
  await writeModel(out, { draft: thinned, tensors, dtypes: ["f32"] }, force);

  const classes = manifest.labels.length;
  const macs = countMacs(thinned, classes);
  const macsShare = macs / countMacs(original.manifest, classes);
  const tokens = blocks.map(({ keepIdx }) => keepIdx.length);
  say(`thin: ${tokens.join(", ")} tokens; ${si(macs)} MACs (${percent(macsShare)}) → ${out}`);
  return { out, macs, macsShare, tokens };
}

type Blocks = Architecture["blocks"];

function withFirst(counts: number[], order: PatchOrder, arch: Architecture): Blocks {
  const { prefixTokens } = arch;
  const ranked = orderedPatches(arch, order);
  const prefix = Array.from({ length: prefixTokens }, (_, token) => token);
  return arch.blocks.map((block, i) => {
    const patches = ranked.slice(0, counts[i]).map((patch) => patch + prefixTokens);
    return { ...block, keepIdx: [...prefix, ...patches.sort((a, b) => a - b)] };
  });
}

/** @throws SlimViTError `bad-option` for a model of another depth, or with another number of prefix tokens */
function withListsOf(source: string, arch: Architecture): Blocks {
  const other = readManifestFile(source);
  const { prefixTokens, blocks } = arch;
  if (other.blocks.length !== blocks.length || other.prefixTokens !== prefixTokens) {
    const has = `${other.blocks.length} blocks and ${other.prefixTokens} prefix tokens`;
    const fault = `has ${has}, the model ${blocks.length} and ${prefixTokens}.`;
    throw new SlimViTError("bad-option", `thin: --lists ${source}: ${fault}`);
  }
  const [from, to] = [patchGrid(other), patchGrid(arch)];
  return blocks.map((block, i) => ({
    ...block,
    keepIdx: resampleKeepIdx(other.blocks[i].keepIdx, from, to, prefixTokens),
  }));
}

function withEveryPatch(arch: Architecture): Blocks {
  const keepIdx = Array.from({ length: denseTokens(arch) }, (_, token) => token);
  return arch.blocks.map((block) => ({ ...block, keepIdx }));
}

/** Patches a block. @throws SlimViTError `bad-option` for a block or a number that the model has not */
function patchCounts(manifest: Architecture, keep: ThinOptions["keep"]): number[] {
  const counts = manifest.blocks.map(({ keepIdx }) => keepIdx.length - manifest.prefixTokens);
  for (const [from, patches] of [...(keep ?? [])].sort(([a], [b]) => a - b)) {
    if (from >= counts.length)
      throw new SlimViTError(
        "bad-option",
        `thin: --keep ${from}:${patches}: the model's last block is ${counts.length - 1}.`,
      );
    if (patches > counts[from])
      throw new SlimViTError(
        "bad-option",
        `thin: --keep ${from}:${patches}: only ${counts[from]} patches come to block ${from}.`,
      );
    for (let i = from; i < counts.length; i++) counts[i] = Math.min(counts[i], patches);
  }
  return counts;
}
