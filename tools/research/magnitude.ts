/**
 * tsx tools/research/magnitude.ts SEARCH -o OUT: the same search, with importance by magnitude: the sum of squares of a
 * channel's rows of q, k and v and its column of proj, or of a unit's row of fc1 and its column of fc2. Tokens have no
 * weights, so all stay. `compress OUT --macs R` or `--params R` then cuts by it.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { type Architecture, innerDim, type Tensors } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { type StoredTensor, writeSafetensors } from "../../src/format/safetensors.ts";
import { zetaShapes } from "../masks/masks.ts";
import { IMPORTANCE_FILE, readMasks, readSearchOptions, SEARCH_FILE, ZETA_FILE } from "../masks/searched.ts";
import { claimOutput, readModelFolder, withStep, writeModelFolder } from "../models/folders.ts";

function main(source: string, { out }: { out: string }): void {
  claimOutput(out);
  const { manifest, tensors } = readModelFolder(source, "f32");
  const { mode } = readMasks(source, ZETA_FILE, manifest);
  if (mode !== "channel")
    throw new SlimViTError(
      "bad-model",
      `${source}: its masks are one a ${mode}; magnitudes are ranked channel by channel.`,
    );
  const { format: _, weights: __, ...draft } = manifest;
  const provenance = withStep(manifest.provenance, "magnitude", {});
  writeModelFolder(out, { ...draft, provenance }, tensors, ["f32"], {
    [IMPORTANCE_FILE]: writeSafetensors(magnitudes(manifest, tensors)),
    [ZETA_FILE]: readFileSync(join(source, ZETA_FILE)),
    [SEARCH_FILE]: `${JSON.stringify({ ...readSearchOptions(source), wPatch: 0 })}\n`,
  });
}

/** Named and shaped as the masks. */
function magnitudes(arch: Architecture, tensors: Tensors): Map<string, StoredTensor> {
  const out = new Map<string, StoredTensor>();
  for (const [name, shape] of zetaShapes(arch, "channel")) {
    out.set(name, { dtype: "F32", shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) });
  }
  const { embedDim } = arch;
  arch.blocks.forEach((block, i) => {
    const at = `blocks.${i}`;
    const add = (mask: string, units: number, linear: string, isColumn: boolean) => {
      const sums = out.get(`${at}.${mask}`)!.data as Float32Array;
      float32(tensors, `${at}.${linear}.weight`).forEach((w, k) => {
        sums[isColumn ? k % units : Math.floor(k / embedDim) % units] += w * w;
      });
    };
    add("attn.zeta", innerDim(block), "attn.qkv", false);
    add("attn.zeta", innerDim(block), "attn.proj", true);
    add("mlp.zeta", block.mlpHidden, "mlp.fc1", false);
    add("mlp.zeta", block.mlpHidden, "mlp.fc2", true);
  });
  return out;
}

try {
  new Command("magnitude")
    .argument("<search>", "folder of slimvit search")
    .requiredOption("-o, --out <folder>", "output folder")
    .action(main)
    .parse();
} catch (error) {
  console.error(`magnitude: ${messageOf(error)}`);
  process.exitCode = 1;
}
