/** What `train` does at each step, seen by a network that only listens: rates, averages, mixed pictures, stochastic depth. */
import { beforeAll, describe, expect, test } from "vitest";
import type { Tensor } from "../../../src/tfjs/ops.ts";
import { type Backend, openBackend } from "../../../tools/training/backend.ts";
import type { TrainData } from "../../../tools/training/batches.ts";
import type { TrainTask } from "../../../tools/training/train.ts";
import { trainingNumbers } from "../../fixtures/oracle/numbers.ts";
import { expectClose } from "../../helpers.ts";
import { workplace } from "../fixtures.ts";
import { noiseData } from "../training.ts";
import { type Recording, record, type SeenBatch } from "./recording.ts";

const PICTURES = 24;
const { schedules, averages } = trainingNumbers();
const at = workplace("steps");
let backend: Backend;
let data: TrainData;
let runs = 0;

beforeAll(async () => {
  backend = await openBackend("tfjs-node");
  data = await noiseData(PICTURES);
});

type Options = Parameters<typeof record>[1];
const listen = (
  options: Options,
  more: Pick<Parameters<typeof record>[0], "depth" | "forced" | "task"> = {},
): Promise<Recording> => record({ backend, data, checkpoint: at(`${runs++}.safetensors`), ...more }, options);

describe("the rate", () => {
  test.each(schedules)(
    "of a $schedule schedule with $warmupSteps of $steps steps of warm-up is PyTorch's",
    async ({ lr, warmupSteps, steps, schedule, rates }) => {
      // Two steps an epoch. Adam's step along a gradient that does not change is as long as the rate.
      const { values } = await listen({ lr, schedule, batch: 12, epochs: steps / 2, warmup: warmupSteps / 2 });
      const taken = values.slice(1).map((value, k) => values[k] - value);
      expectClose(taken, rates, 1e-4 * lr);
    },
  );
});

describe("the averaged weights", () => {
  test.each([3, averages.values.length])("after %d steps are those of torch's AveragedModel", async (steps) => {
    const { decay, values } = averages;
    const { result } = await listen({ ema: decay, batch: 12, epochs: steps / 2 }, { forced: values });
    expect(result).toBeCloseTo(averages.averages[steps - 1], 5);
  });

  test("are not kept without --ema: the last step's weights are the result", async () => {
    const { result } = await listen({ ema: 0, batch: 12, epochs: 2 }, { forced: averages.values });
    expect(result).toBe(averages.values[3]);
  });
});

test("the best weights are the averaged ones as val sees them, not those of the last step", async () => {
  const offered: number[] = [];
  const best = {
    tensors: new Map(),
    offer: (_: unknown, variables: TrainTask["variables"]) =>
      void offered.push(variables.get("probe")!.dataSync()[0] as number),
    takeOver: () => undefined,
  };
  const validation = { ...data, pictures: data.pictures.slice(0, 3) };
  const options = { ema: 0.2, batch: 12, epochs: 2, valEvery: 0.5 };
  await listen(options, { forced: [1, 3, 5, 7], task: { validation, best: best as never } });
  // Decays: (1 + 1) / (10 + 1) in the second step, then 0.2.
  const second = (2 / 11) * 1 + (9 / 11) * 3;
  const third = 0.2 * second + 0.8 * 5;
  expectClose(offered, [0, 1, second, third, 0.2 * third + 0.8 * 7], 1e-5);
});

test("the forward pass is told how much of the training is done: 0 at first, never all", async () => {
  const { batches } = await listen({ batch: 12, epochs: 2 });
  expect(batches.map(({ progress }) => progress)).toEqual([0, 0.25, 0.5, 0.75]);
});

test("weight decay shortens what the task says is decayed: p(1 − lr · wd) and then Adam's step", async () => {
  const options = { lr: 0.1, schedule: "constant", weightDecay: 0.5, batch: 12, epochs: 1.5 } as const;
  const one = -0.1;
  const two = one * (1 - 0.1 * 0.5) - 0.1;
  const decayed = await listen(options, { task: { decays: (name) => name === "probe" } });
  expectClose(decayed.values, [0, one, two, two * (1 - 0.1 * 0.5) - 0.1], 1e-5);
  expectClose((await listen(options)).values, [0, -0.1, -0.2, -0.3], 1e-5); // a vector is not
});

const CLASSES = 3;
const EACH = 3 * 32 * 32;
const pictureOf = ({ pixels }: SeenBatch, k: number) => pixels.subarray(k * EACH, (k + 1) * EACH);
const targetOf = ({ targets }: SeenBatch, k: number) => targets.subarray(k * CLASSES, (k + 1) * CLASSES);

describe("mixup", () => {
  test("is lam of the picture and the rest of its partner, targets alike, smoothed", async () => {
    const options = { batch: 5, epochs: 2, smoothing: 0.1 };
    const [plain, mixed] = [await listen(options), await listen({ ...options, mixup: 0.8 })];
    expect(mixed.batches).toHaveLength(8);
    mixed.batches.forEach((batch, n) => {
      const own = plain.batches[n];
      expectSmoothed(own, 0.1);
      const lam = shareOf(pictureOf(batch, 0), pictureOf(own, 0), pictureOf(own, 4));
      expect(lam).toBeGreaterThanOrEqual(0);
      expect(lam).toBeLessThanOrEqual(1);
      for (let k = 0; k < 5; k++) {
        const blend = (a: Float32Array, b: Float32Array) => a.map((v, i) => lam * v + (1 - lam) * b[i]);
        expectClose(pictureOf(batch, k), blend(pictureOf(own, k), pictureOf(own, 4 - k)), 1e-5);
        expectClose(targetOf(batch, k), blend(targetOf(own, k), targetOf(own, 4 - k)), 1e-5);
      }
    });
  });

  test("shows the teacher the mixed pictures, too", async () => {
    const shown: Float32Array[] = [];
    const teacher = (pixels: Tensor) => {
      shown.push(pixels.dataSync() as Float32Array);
      return backend.tf.zeros([pixels.shape[0]!, CLASSES]) as Tensor;
    };
    const { batches } = await listen({ batch: 5, epochs: 1, mixup: 0.8, alpha: 0.5 }, { task: { teacher } });
    const [plain] = (await listen({ batch: 5, epochs: 1 })).batches;
    expect(shown).toEqual(batches.map(({ pixels }) => pixels));
    expect(shown[0]).not.toEqual(plain.pixels);
  });

  test("draws lam from Beta(0.8, 0.8)", async () => {
    const options = { batch: 2, epochs: 12 };
    const [plain, mixed] = [await listen(options), await listen({ ...options, mixup: 0.8 })];
    const lams = mixed.batches.map((batch, n) =>
      shareOf(pictureOf(batch, 0), pictureOf(plain.batches[n], 0), pictureOf(plain.batches[n], 1)),
    );
    expect(lams).toHaveLength(144);
    const mean = lams.reduce((a, b) => a + b) / lams.length;
    const variance = lams.reduce((a, b) => a + (b - 0.5) ** 2, 0) / lams.length;
    expect(Math.abs(mean - 0.5)).toBeLessThan((4 * 0.31) / Math.sqrt(lams.length));
    expect(Math.abs(variance - 1 / (4 * (2 * 0.8 + 1)))).toBeLessThan((4 * 0.083) / Math.sqrt(lams.length));
  });
});

describe("cutmix", () => {
  test("puts one rectangle of the partner into each picture, and as much of the partner's target", async () => {
    const options = { batch: 5, epochs: 4 };
    const [plain, cut] = [await listen(options), await listen({ ...options, cutmix: 1 })];
    let inner = 0;
    cut.batches.forEach((batch, n) => {
      const own = plain.batches[n];
      const boxes = [0, 1, 3, 4].map((k) => changedBox(pictureOf(batch, k), pictureOf(own, k)));
      const { top, left, height, width } = boxes[0];
      for (const box of boxes) expect(box).toEqual(boxes[0]); // one rectangle for the whole batch
      if (height > 0 && height < 32 && width > 0 && width < 32) inner++;
      const lam = 1 - (height * width) / (32 * 32);
      for (let k = 0; k < 5; k++) {
        const wanted = pictureOf(own, k).slice();
        for (let c = 0; c < 3; c++)
          for (let y = top; y < top + height; y++)
            for (let x = left; x < left + width; x++) {
              const i = (c * 32 + y) * 32 + x;
              wanted[i] = pictureOf(own, 4 - k)[i];
            }
        expect(pictureOf(batch, k)).toEqual(wanted);
        const target = targetOf(own, k).map((v, i) => lam * v + (1 - lam) * targetOf(own, 4 - k)[i]);
        expectClose(targetOf(batch, k), target, 1e-5);
      }
    });
    expect(inner).toBeGreaterThan(8); // of 16
  });

  test("with mixup takes turns at random: about half of the batches each", async () => {
    const options = { batch: 2, epochs: 10 };
    const [plain, mixed] = [await listen(options), await listen({ ...options, mixup: 0.8, cutmix: 1 })];
    const isCut = mixed.batches.map((batch, n) =>
      pictureOf(batch, 0).every(
        (v, i) => v === pictureOf(plain.batches[n], 0)[i] || v === pictureOf(plain.batches[n], 1)[i],
      ),
    );
    const cut = isCut.filter(Boolean).length;
    expect(isCut).toHaveLength(120);
    expect(Math.abs(cut - 60)).toBeLessThan(4 * Math.sqrt(120 / 4));
  });
});

describe("stochastic depth", () => {
  test("drops branches the more often the deeper they are, and divides those that run by how often they do", async () => {
    const [rate, depth] = [0.4, 5];
    const { batches } = await listen({ batch: 12, epochs: 20, dropPath: rate }, { depth });
    const draws = 12 * batches.length;
    for (let i = 0; i < depth; i++) {
      const drop = (rate * i) / (depth - 1); // timm's linspace(0, rate, depth)
      for (const branch of ["attn", "mlp"] as const) {
        const gates = batches.flatMap(({ gates }) => [...gates[i][branch]]);
        expect(gates).toHaveLength(draws);
        const kept = gates.filter((gate) => gate !== 0);
        for (const gate of kept) expect(gate).toBeCloseTo(1 / (1 - drop), 6);
        const dropped = draws - kept.length;
        expect(Math.abs(dropped - drop * draws)).toBeLessThanOrEqual(4 * Math.sqrt(draws * drop * (1 - drop)));
      }
      const both = batches.flatMap(({ gates }) => [...gates[i].attn].map((gate, k) => gate === gates[i].mlp[k]));
      if (i > 0) expect(both).toContain(false); // a picture's two branches are drawn apart
    }
  });

  test("is off at rate 0", async () => {
    const { batches } = await listen({ batch: 12, epochs: 1, dropPath: 0 }, { depth: 3 });
    expect(batches.map(({ gates }) => gates)).toEqual([[], []]);
  });
});

/** The lam of mixed = lam · own + (1 − lam) · partner, by least squares. */
function shareOf(mixed: Float32Array, own: Float32Array, partner: Float32Array): number {
  let [above, below] = [0, 0];
  mixed.forEach((v, i) => {
    const difference = own[i] - partner[i];
    above += (v - partner[i]) * difference;
    below += difference * difference;
  });
  return above / below;
}

function expectSmoothed({ targets }: SeenBatch, smoothing: number): void {
  const off = smoothing / CLASSES;
  for (let k = 0; k < targets.length; k += CLASSES) {
    const row = [...targets.subarray(k, k + CLASSES)].sort((a, b) => a - b);
    expectClose(row, [off, off, 1 - smoothing + off], 1e-5);
  }
}

/** The smallest rectangle that holds every pixel that differs. */
function changedBox(a: Float32Array, b: Float32Array): { top: number; left: number; height: number; width: number } {
  let [top, left, bottom, right] = [32, 32, 0, 0];
  a.forEach((v, i) => {
    if (v === b[i]) return;
    const [y, x] = [Math.floor(i / 32) % 32, i % 32];
    [top, left] = [Math.min(top, y), Math.min(left, x)];
    [bottom, right] = [Math.max(bottom, y + 1), Math.max(right, x + 1)];
  });
  return bottom === 0
    ? { top: 0, left: 0, height: 0, width: 0 }
    : { top, left, height: bottom - top, width: right - left };
}
