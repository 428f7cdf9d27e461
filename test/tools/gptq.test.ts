import { writeFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { fromFloat16, toFloat16 } from "../../src/format/float16.ts";
import type { Model, Tensors } from "../../src/format/model.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import { evalPixels, openDataset } from "../../tools/data/data.ts";
import { readModelFolder, writeModelFolder } from "../../tools/models/folders.ts";
import { roundRows } from "../../tools/quantise/gptq.ts";
import { random } from "../../tools/shared/random.ts";
import { expectClose, randomValues } from "../helpers.ts";
import {
  CLASSES,
  expectFailure,
  makeDense,
  randomTensors,
  slimvitJson,
  tinyArchitecture,
  workplace,
} from "./fixtures.ts";

const at = workplace("gptq");
const STEP = 0.9;

/** Σ |W x − Ŵ x|² over inputs whose second moments are given. */
function lost(off: Float32Array, columns: number, moments: Float64Array): number {
  let sum = 0;
  for (let r = 0; r < off.length; r += columns)
    for (let a = 0; a < columns; a++)
      for (let b = 0; b < columns; b++) sum += off[r + a] * off[r + b] * moments[a * columns + b];
  return sum;
}

describe("rounding a linear by what it sees", () => {
  test("is rounding to the nearest level where inputs have nothing to do with each other", () => {
    const values = randomValues(4 * 6, 1);
    const moments = Float64Array.from({ length: 36 }, (_, i) => (i % 7 === 0 ? 1 + i : 0));
    const { levels, scale, exact } = roundRows(values, 6, moments, STEP);
    expect([...levels]).toEqual([...values].map((v, i) => Math.round(v / scale[Math.floor(i / 6)]) || 0));
    expectClose(exact, values, 1e-6);
  });

  test("makes up for a column's error in the next one", () => {
    const moments = Float64Array.of(4, 1.6, 1.6, 2);
    const fine = roundRows(Float32Array.of(0.9, 0.7), 2, moments, 0);
    expect(fine.scale[0]).toBeCloseTo(0.9 / 64, 6);
    expect(fine.levels[0]).toBe(64);
    expect(fine.exact[1]).toBeCloseTo(0.7, 6); // nothing to make up for
    const coarse = roundRows(Float32Array.of(0.9, 0.7), 2, moments, 1);
    const rms = Math.hypot(0.9, 0.7) / Math.SQRT2; // 0.80623, in f16 0.80615
    expect(coarse.scale[0]).toBeCloseTo(rms, 3);
    expect(coarse.levels[0]).toBe(1);
    expect(coarse.exact[1]).toBeCloseTo(0.7 + ((0.9 - coarse.scale[0]) * 1.6) / (2 + 0.03), 5); // damped by a hundredth of the mean of 4 and 2
  });

  test("loses less in the outputs than the nearest levels do, on inputs that go together", () => {
    for (let seed = 0; seed < 10; seed++) {
      const [rows, columns, inputs] = [12, 24, 200];
      const values = randomValues(rows * columns, seed);
      const rng = random(seed);
      const moments = new Float64Array(columns * columns);
      for (let n = 0; n < inputs; n++) {
        const common = rng() - 0.5;
        const x = Array.from({ length: columns }, () => 2 * common + rng() - 0.5);
        for (let a = 0; a < columns; a++) for (let b = 0; b < columns; b++) moments[a * columns + b] += x[a] * x[b];
      }
      const { levels, scale } = roundRows(values, columns, moments, STEP);
      const rounded = values.map((v, i) => levels[i] * scale[Math.floor(i / columns)] - v);
      const nearest = values.map((v, i) => {
        const s = scale[Math.floor(i / columns)];
        return Math.round(v / s) * s - v;
      });
      expect(lost(rounded, columns, moments)).toBeLessThan(0.5 * lost(nearest, columns, moments));
      expect(levels.every((level) => Math.abs(level) <= 64)).toBe(true);
    }
  });

  test("takes rows of zeros, and inputs that were never seen", () => {
    const { levels, scale } = roundRows(Float32Array.of(0, 0, 1, -1), 2, new Float64Array(4), STEP);
    expect([...levels]).toEqual([0, 0, 1, -1]);
    expect([...scale]).toEqual([0, fromFloat16(toFloat16(STEP))]);
  });
});

describe("export --weight-step --data", () => {
  beforeAll(async () => {
    await makeDense(at, 20);
    // Heads of several widths, a block without heads, one without an MLP, and tokens that go.
    const { blocks, ...arch } = tinyArchitecture();
    const some = { headDims: [5, 8], mlpHidden: 13, keepIdx: blocks[0].keepIdx, merge: 0 };
    const fewer = { ...some, keepIdx: some.keepIdx.filter((token) => token % 3 !== 1) };
    const ragged = { ...arch, blocks: [some, { ...some, headDims: [] }, { ...fewer, mlpHidden: 0 }, fewer] };
    const { format: _, weights: __, ...draft } = readModelFolder(at("dense")).manifest;
    writeModelFolder(at("ragged"), { ...draft, ...ragged }, randomTensors(ragged, CLASSES.length, 3), ["f32"]);
  });

  /** Mean squared difference of the logits from the exact model's, on the pictures. */
  async function off(model: Model, tensors: Tensors): Promise<number> {
    const { pictures } = await openDataset([at("pictures")], "all");
    let sum = 0;
    for (const picture of pictures) {
      const pixels = await evalPixels(picture, model.manifest.preprocess);
      const [exact, rounded] = [model.tensors, tensors].map((t) => forward({ ...model, tensors: t }, pixels).logits);
      sum += exact.reduce((total, v, i) => total + (v - rounded[i]) ** 2, 0) / pictures.length;
    }
    return sum;
  }

  test.each(["dense", "ragged"])("keeps the logits of a %s model nearer than nearest levels do", async (name) => {
    const args = ["--dtype", "f32,int8", "--weight-step", String(STEP)];
    const data = ["--data", at("pictures"), "--split", "all"];
    await slimvitJson("export", at(name), "-o", at(`${name}-rounded`), ...args, ...data);
    const model = readModelFolder(at(name), "f32");
    const { tensors, manifest } = readModelFolder(at(`${name}-rounded`), "int8");
    const nearest = encodeTensors(model.tensors, "int8", STEP);
    expect(await off(model, tensors)).toBeLessThan(0.7 * (await off(model, nearest)));
    expect(encodeTensors(tensors, "int8")).toEqual(tensors); // as it was, on its grid
    expect((manifest.provenance as { steps: object[] }).steps.at(-1)).toMatchObject({
      command: "export",
      weightStep: STEP,
      data: ["pictures"],
      pictures: 60,
    });
  });

  test("names a picture that cannot be read, and writes nothing", async () => {
    writeFileSync(at("pictures", CLASSES[0], "000.png"), "no picture");
    const args = ["export", at("dense"), "-o", at("never"), "--dtype", "int8", "--weight-step", "1"];
    await expectFailure(
      [...args, "--data", at("pictures"), "--split", "all"],
      1,
      /000\.png: is no picture that can be read/,
    );
    await expectFailure(["inspect", at("never")], 1, /no such folder/);
  });
});
