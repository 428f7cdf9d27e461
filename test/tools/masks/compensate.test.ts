/** Compensation in closed form: what can be made up for is made up for, and a cut model comes closer to the whole one. */
import { beforeAll, describe, expect, test } from "vitest";
import { encodeTensors } from "../../../src/format/write.ts";
import { cholesky, solveFactored } from "../../../src/reference/cholesky.ts";
import { forward } from "../../../src/reference/forward.ts";
import { evalPixels, openDataset } from "../../../tools/data/data.ts";
import { compensate, compensateFor } from "../../../tools/masks/compensate.ts";
import { type CompressReport, compress } from "../../../tools/masks/compress.ts";
import { type BlockMask, cutTensors, slimArchitecture } from "../../../tools/masks/masks.ts";
import { addRidge, chooseKept, type Moments, solveForKept, statisticsOf } from "../../../tools/masks/ridge.ts";
import { WholeStreams } from "../../../tools/masks/wholeStreams.ts";
import { readModelFolder } from "../../../tools/models/folders.ts";
import { random } from "../../../tools/shared/random.ts";
import { openBackend } from "../../../tools/training/backend.ts";
import { makeDense, workplace } from "../fixtures.ts";

/** Moments of rows of inputs, as a linear's are gathered. */
function momentsOf(rows: number[][]): Moments {
  const size = rows[0].length;
  const stride = size + 1;
  const inputs = new Float64Array(stride * stride);
  for (const row of rows) {
    const withOne = [...row, 1];
    withOne.forEach((a, i) => {
      withOne.forEach((b, j) => void (inputs[i * stride + j] += a * b));
    });
  }
  return { inputs, size };
}

describe("a linear solved again", () => {
  // The third input is twice the first plus 5, so nothing is lost with it.
  const rows = Array.from({ length: 40 }, (_, k) => {
    const [a, b] = [Math.sin(k), Math.cos(3 * k)];
    return [a, b, 2 * a + 5];
  });
  const weight = Float32Array.from([1, 2, 3, -1, 0.5, 0.25]); // [2, 3]
  const bias = Float32Array.from([0.5, -2]);

  test("an input that the others determine is made up for, bias included", () => {
    const solved = solveForKept(weight, bias, momentsOf(rows), [0, 1]);
    for (const [a, b, c] of rows) {
      for (const o of [0, 1]) {
        const whole = weight[3 * o] * a + weight[3 * o + 1] * b + weight[3 * o + 2] * c + bias[o];
        const left = solved.weight[2 * o] * a + solved.weight[2 * o + 1] * b + solved.bias[o];
        expect(Math.abs(left - whole)).toBeLessThan(0.05);
      }
    }
  });

  test("with wanted outputs it is solved for those, not for its own", () => {
    const moments = momentsOf(rows);
    const targets = new Float64Array(4 * 2);
    for (const row of rows) {
      [...row, 1].forEach((value, i) => {
        targets[2 * i] += value * 7; // every output is to be 7 and −7
        targets[2 * i + 1] -= value * 7;
      });
    }
    const solved = solveForKept(weight, bias, { ...moments, targets }, [0, 1]);
    for (const [a, b] of rows)
      expect(Math.abs(solved.weight[0] * a + solved.weight[1] * b + solved.bias[0] - 7)).toBeLessThan(0.1);
  });

  test("of two inputs that say the same one goes first, whatever its weight", () => {
    const doubled = rows.map(([a, b]) => [a, b, a]);
    const heavy = Float32Array.from([5, 1, 5]);
    expect(chooseKept(heavy, momentsOf(doubled), 2)[1]).toBe(true);
    expect(chooseKept(heavy, momentsOf(doubled), 2).filter(Boolean)).toHaveLength(2);
  });
});

test("inputs leave in the order in which a solution for all that is left loses least, each set solved on its own", () => {
  const [size, outDim] = [9, 4];
  const next = random(7);
  const mixed = Array.from({ length: size }, () => Array.from({ length: size }, () => next() - 0.5));
  const rows = Array.from({ length: 60 }, () => {
    const causes = Array.from({ length: size }, () => next() - 0.5);
    return mixed.map((shares) => shares.reduce((sum, share, k) => sum + share * causes[k], 0));
  });
  const weight = Float32Array.from({ length: outDim * size }, () => next() - 0.5);
  const moments = momentsOf(rows);
  const { covariance } = statisticsOf(moments);
  addRidge(covariance, size, size);
  /** What the whole linear's outputs vary by, less what the best linear of these inputs explains. */
  const lossOf = (inputs: number[]) => {
    const n = inputs.length;
    const among = Float64Array.from(
      { length: n * n },
      (_, k) => covariance[inputs[Math.floor(k / n)] * size + inputs[k % n]],
    );
    const factor = cholesky(among, n);
    let loss = 0;
    for (let o = 0; o < outDim; o++) {
      const w = weight.subarray(o * size, (o + 1) * size);
      const withOutput = Float64Array.from({ length: size }, (_, i) =>
        w.reduce((sum, v, j) => sum + v * covariance[i * size + j], 0),
      );
      const shared = Float64Array.from(inputs, (i) => withOutput[i]);
      const solved = Float64Array.from(shared);
      solveFactored(factor, solved);
      loss +=
        w.reduce((sum, v, j) => sum + v * withOutput[j], 0) - solved.reduce((sum, v, k) => sum + v * shared[k], 0);
    }
    return loss;
  };
  let left = Array.from({ length: size }, (_, i) => i);
  while (left.length > 2) {
    const without = left.map((input) => left.filter((other) => other !== input));
    const losses = without.map(lossOf);
    left = without[losses.indexOf(Math.min(...losses))];
    const kept = chooseKept(weight, moments, left.length);
    expect(kept.flatMap((stays, i) => (stays ? [i] : []))).toEqual(left);
  }
});

describe("a cut model", () => {
  const at = workplace("compensate");
  beforeAll(() => makeDense(at, 5));

  test("comes closer to the whole one than the plain cut, on pictures that it was not solved for", async () => {
    const { tf } = await openBackend();
    const model = readModelFolder(at("dense"));
    const { manifest } = model;
    const tensors = encodeTensors(model.tensors, "f32");
    const every = (n: number, period: number) => Array.from({ length: n }, (_, k) => k % period !== 1);
    const masks: BlockMask[] = manifest.blocks.map((block) => ({
      attn: every(
        block.headDims.reduce((a, b) => a + b, 0),
        4,
      ),
      mlp: every(block.mlpHidden, 4),
      tokens: block.keepIdx.map(() => true),
    }));
    const { pictures } = await openDataset([at("pictures")], "train");
    const compensated = await compensate(tf, { manifest, tensors }, masks, pictures);
    const slim = slimArchitecture(manifest, masks);
    const plain = cutTensors(manifest, tensors, masks);
    const { pictures: others } = await openDataset([at("pictures")], "test");
    const pixels = await Promise.all(others.map((picture) => evalPixels(picture, manifest.preprocess)));
    const off = (own: typeof plain) =>
      Math.hypot(
        ...pixels.flatMap((picture) => {
          const whole = forward({ manifest, dtype: "f32", tensors }, picture).logits;
          const { logits } = forward({ manifest: slim, dtype: "f32", tensors: own }, picture);
          return Array.from(logits, (v, k) => v - whole[k]);
        }),
      );
    expect(off(compensated.tensors)).toBeLessThan(0.6 * off(plain));
  });

  test("is the same when several cuts share the whole model's streams, which are freed at last, also after a stop", async () => {
    const { tf } = await openBackend();
    const { manifest, tensors: stored } = readModelFolder(at("dense"));
    const model = { manifest, tensors: encodeTensors(stored, "f32") };
    const { pictures } = await openDataset([at("pictures")], "train");
    const cuts = [
      { attn: 0.75, mlp: 0.5 },
      { attn: 0.5, mlp: 0.75 },
    ];
    const before = tf.memory().numTensors;
    const whole = await WholeStreams.open(tf, model, pictures, true);
    for (const cut of cuts) {
      const shared = await compensateFor(whole, cut);
      const alone = await compensate(tf, model, cut, pictures);
      expect(shared.masks).toEqual(alone.masks);
      expect([...shared.tensors]).toEqual([...alone.tensors]);
    }
    let turns = 0;
    const turn = async () => {
      if (++turns === 2) throw new Error("stopped before the second block");
    };
    await expect(compensateFor(whole, cuts[0], turn)).rejects.toThrow("stopped before the second block");
    whole.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  test("compress --compensate cuts a model that was not searched, by shares, and needs pictures", async () => {
    const options = { attn: 0.75, mlp: 0.75, tokens: "union" as const, compensate: true };
    const report = (await compress(at("dense"), {
      ...options,
      ...{ out: at("cut"), data: [at("pictures")] },
    })) as CompressReport;
    const { blocks } = readModelFolder(at("cut")).manifest;
    const dense = readModelFolder(at("dense")).manifest.blocks;
    expect(blocks.map(({ mlpHidden }) => mlpHidden)).toEqual(
      dense.map(({ mlpHidden }) => Math.round(0.75 * mlpHidden)),
    );
    expect(report.macsShare).toBeLessThan(0.9);
    await expect(compress(at("dense"), { ...options, out: at("none") })).rejects.toThrow(/--compensate needs pictures/);
    await expect(
      compress(at("dense"), { ...options, out: at("none"), data: [at("pictures")], patch: 0.5 }),
    ).rejects.toThrow(/has no searched masks/);
  });
});
