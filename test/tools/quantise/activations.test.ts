/** Ranges of activations: those of a linear's inputs, and those of its outputs divided by their rows' lengths. */
import { expect, test } from "vitest";
import type { ActivationRanges } from "../../../src/format/model.ts";
import { float32 } from "../../../src/format/read.ts";
import { forward } from "../../../src/reference/forward.ts";
import { widenBy } from "../../../tools/quantise/activations.ts";
import { randomModel, randomPixels } from "../../helpers.ts";
import { tinyArchitecture } from "../fixtures.ts";

const model = randomModel(tinyArchitecture(), 3, 3);
const pictures = [1, 2, 3].map((seed) => randomPixels(model.manifest, seed));

/** Rows of what enters and leaves a linear, over all pictures. */
function rowsOf(linear: string, outputs: number): { inputs: number[]; outputs: number[][] } {
  const found = { inputs: [] as number[], outputs: [] as number[][] };
  for (const pixels of pictures)
    forward(model, pixels, {
      onLinear(name, input, output) {
        if (name !== linear) return;
        found.inputs.push(...input);
        for (let row = 0; row < output.length; row += outputs)
          found.outputs.push([...output.subarray(row, row + outputs)]);
      },
    });
  return found;
}

/** Of the outputs `from` to `to`, each divided by the length of its row of the weights. */
function wantedOf(linear: string, rows: number[][], from: number, to: number): [number, number] {
  const weight = float32(model.tensors, `${linear}.weight`);
  const columns = weight.length / rows[0].length;
  const lengthOf = (row: number) => Math.hypot(...weight.subarray(row * columns, (row + 1) * columns));
  const values = rows.flatMap((row) => row.slice(from, to).map((value, k) => value / lengthOf(from + k)));
  return [Math.min(...values), Math.max(...values)];
}

test("are the least and the greatest of all pictures, of queries, keys and values apart", () => {
  const ranges: ActivationRanges = {};
  for (const pixels of pictures) widenBy(ranges, model, pixels);
  const inner = 16;
  const qkv = rowsOf("blocks.1.attn.qkv", 3 * inner);
  const fc1 = rowsOf("blocks.1.mlp.fc1", 24);
  const wanted: ActivationRanges = {
    "blocks.1.attn.qkv.input": [Math.min(...qkv.inputs), Math.max(...qkv.inputs)],
    "blocks.1.mlp.fc1.input": [Math.min(...fc1.inputs), Math.max(...fc1.inputs)],
    "blocks.1.mlp.fc1.output": wantedOf("blocks.1.mlp.fc1", fc1.outputs, 0, 24),
  };
  ["q", "k", "v"].forEach((part, p) => {
    wanted[`blocks.1.attn.${part}.output`] = wantedOf("blocks.1.attn.qkv", qkv.outputs, p * inner, (p + 1) * inner);
  });
  expect(qkv.outputs.length).toBe(3 * 17);
  for (const [name, [low, high]] of Object.entries(wanted)) {
    expect(ranges[name]?.[0], `${name}, least`).toBeCloseTo(low, 4);
    expect(ranges[name]?.[1], `${name}, greatest`).toBeCloseTo(high, 4);
  }
  expect(ranges).not.toHaveProperty(["blocks.1.attn.qkv.output"]);
});
