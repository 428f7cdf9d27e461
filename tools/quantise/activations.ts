/**
 * The ranges of the activations around each linear, on some pictures. Engines that quantise activations by fixed ranges
 * need them (WebNN; the QDQ form of ONNX).
 */
import type { ActivationRange, ActivationRanges, Model } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { forward } from "../../src/reference/forward.ts";
import { evalPixels, type Picture, spread } from "../data/data.ts";
import { startProgress } from "../shared/progress.ts";

/** The plain loops take some seconds a picture. Ranges of DeiT-Ti on 24 pictures lose as little as those of their 90 % quantiles. */
export const CALIBRATION_PICTURES = 24;

/** @param model with the weights that will run */
export async function activationRanges(model: Model, pictures: Picture[]): Promise<ActivationRanges> {
  const chosen = spread(pictures, CALIBRATION_PICTURES);
  const progress = startProgress("calibration", chosen.length);
  const ranges: ActivationRanges = {};
  for (const [k, picture] of chosen.entries()) {
    widenBy(ranges, model, await evalPixels(picture, model.manifest.preprocess));
    progress.update(k + 1, "");
  }
  progress.stop();
  return ranges;
}

/** @param ranges widened by what the linears see of one more input */
export function widenBy(ranges: ActivationRanges, model: Model, pixels: Float32Array): void {
  const sizesOf = (key: string) =>
    rowLengths(float32(model.tensors, `${key}.weight`), model.tensors.get(`${key}.weight`)!.shape);
  forward(model, pixels, {
    onLinear(name, input, output) {
      const lengths = sizesOf(name);
      if (!lengths.length || !input.length) return;
      widen(ranges, `${name}.input`, rangeOf(input, undefined, 0, input.length, 0));
      const names = name.endsWith("attn.qkv") ? ["q", "k", "v"].map((part) => name.replace("qkv", part)) : [name];
      const count = lengths.length / names.length;
      names.forEach((part, p) => {
        const range: ActivationRange = [Infinity, -Infinity];
        for (let row = 0; row < output.length; row += lengths.length)
          merge(range, rangeOf(output, lengths, p * count, count, row));
        widen(ranges, `${part}.output`, range);
      });
    },
  });
}

/** The range of some channels of a row; without `lengths`, of all values. */
function rangeOf(
  values: Float32Array,
  lengths: Float32Array | undefined,
  from: number,
  count: number,
  row: number,
): ActivationRange {
  const range: ActivationRange = [Infinity, -Infinity];
  for (let c = from; c < from + count; c++) {
    const value = lengths ? values[row + c] / lengths[c] : values[c];
    if (value < range[0]) range[0] = value;
    if (value > range[1]) range[1] = value;
  }
  return range;
}

function widen(ranges: ActivationRanges, name: string, seen: ActivationRange): void {
  ranges[name] ??= [...seen];
  merge(ranges[name], seen);
}

function merge(range: ActivationRange, seen: ActivationRange): void {
  range[0] = Math.min(range[0], seen[0]);
  range[1] = Math.max(range[1], seen[1]);
}

/** The length of each row of a linear's weights. It is never 0, because outputs are divided by it. */
function rowLengths(weight: Float32Array, [rows]: number[]): Float32Array {
  const columns = weight.length / rows;
  return Float32Array.from({ length: rows }, (_, r) => {
    let squares = 0;
    for (let i = r * columns; i < (r + 1) * columns; i++) squares += weight[i] ** 2;
    return Math.max(Math.sqrt(squares), 1e-12);
  });
}
