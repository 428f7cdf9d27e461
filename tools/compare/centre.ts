/**
 * tsx tools/compare/centre.ts MODEL -o OUT: the same model with as many tokens in each block, but the central ones: what a
 * learned keep-list has to beat.
 */
import { Command } from "commander";
import type { Architecture } from "../../src/format/model.ts";
import { patchGrid } from "../../src/format/model.ts";
import { claimOutput, readModelFolder, withStep, writeModelFolder } from "../lib/folders.ts";
import { say } from "../lib/terminal.ts";

const command = new Command("centre")
  .description("keep-lists of a slim model → as many central patches")
  .argument("<model>", "model folder")
  .requiredOption("-o, --out <folder>", "output folder")
  .option("--force", "replace the output folder")
  .parse();
const { out, force } = command.opts<{ out: string; force?: boolean }>();
claimOutput(out, force);
const { manifest, tensors } = readModelFolder(command.args[0]);
const ranked = fromTheCentre(manifest);
const blocks = manifest.blocks.map((block) => {
  const patches = ranked.slice(0, block.keepIdx.length - manifest.prefixTokens);
  const prefix = Array.from({ length: manifest.prefixTokens }, (_, token) => token);
  return { ...block, keepIdx: [...prefix, ...patches].sort((a, b) => a - b) };
});
const { format: _, weights: __, ...draft } = manifest;
const provenance = withStep(manifest.provenance, "centre", {});
const centred = { ...draft, name: `${manifest.name}-centre`, blocks, provenance, metrics: {} };
writeModelFolder(out, centred, tensors, ["f32"], {}, force);
say(`centre: ${blocks.map((block) => block.keepIdx.length).join(", ")} central tokens → ${out}`);

/** Tokens of the patches by distance from the picture's middle, nearest first; ties by index. */
function fromTheCentre(arch: Architecture): number[] {
  const [rows, columns] = patchGrid(arch);
  const distance = (patch: number) =>
    ((Math.floor(patch / columns) + 0.5) / rows - 0.5) ** 2 + (((patch % columns) + 0.5) / columns - 0.5) ** 2;
  return Array.from({ length: rows * columns }, (_, patch) => patch)
    .sort((a, b) => distance(a) - distance(b) || a - b)
    .map((patch) => patch + arch.prefixTokens);
}
