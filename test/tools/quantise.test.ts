import { beforeAll, describe, expect, test } from "vitest";
import { fromFloat16, toFloat16 } from "../../src/format/float16.ts";
import { isQuantised } from "../../src/format/quantise.ts";
import { float32 } from "../../src/format/read.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { readModelFolder } from "../../tools/models/folders.ts";
import { onGrid } from "../../tools/quantise/straightThrough.ts";
import { openBackend } from "../../tools/training/backend.ts";
import { expectClose } from "../helpers.ts";
import { CLASSES, expectFailure, makeDense, randomTensors, slimvitJson, workplace } from "./fixtures.ts";
import { arch, tinyVariables } from "./training.ts";

const at = workplace("quantise");
const STEP = 0.5;

describe("weights on the grid", () => {
  test("are those that are written, the others untouched", async () => {
    const { tf } = await openBackend("tfjs-node");
    const written = encodeTensors(randomTensors(arch, CLASSES.length, 1), "int8", STEP);
    const variables = tinyVariables(tf);
    const grid = onGrid(tf, variables, STEP);
    expect([...grid.keys()].sort()).toEqual([...variables.keys()].sort());
    const linears = [0, 1, 2].flatMap((i) =>
      ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"].map((part) => `blocks.${i}.${part}.weight`),
    );
    expect([...grid.keys()].filter(isQuantised).sort()).toEqual([...linears, "head.weight"].sort());
    for (const [key, value] of grid) {
      if (isQuantised(key)) expectClose(value.dataSync() as Float32Array, float32(written, key), 1e-6, key);
      else expect(value).toBe(variables.get(key));
    }
  });

  test("are those that are written where a row's greatest weight sets the step, too", async () => {
    const { tf } = await openBackend("tfjs-node");
    const fine = 0.005; // of this step, the levels would not reach the greatest weights
    const written = encodeTensors(randomTensors(arch, CLASSES.length, 1), "int8", fine);
    for (const [key, value] of onGrid(tf, tinyVariables(tf), fine))
      if (isQuantised(key)) expectClose(value.dataSync() as Float32Array, float32(written, key), 1e-6, key);
  });

  test("hand their gradient to the exact weights as it is; a row of zeros stays one", async () => {
    const { tf } = await openBackend("tfjs-node");
    const values = [0.1, -0.52, 0.9, 0.33, 0, 0, 0, 0];
    const w = tf.variable(tf.tensor2d(values, [2, 4]));
    const slopes = tf.tensor2d([1, 2, 3, 4, 5, 6, 7, 8], [2, 4]);
    const { grads, value } = tf.variableGrads(() =>
      tf.sum(
        tf.mul(onGrid(tf, new Map([["blocks.0.attn.qkv.weight", w]]), 1).get("blocks.0.attn.qkv.weight")!, slopes),
      ),
    );
    expect([...Object.values(grads)[0].dataSync()]).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    const scale = fromFloat16(toFloat16(Math.hypot(...values) / 2)); // 0.5474 of the first row: levels 0, −1, 2, 1
    expect(value.dataSync()[0]).toBeCloseTo(scale * (-2 + 2 * 3 + 4), 5);
  });
});

describe("--weight-step", () => {
  beforeAll(() => makeDense(at, 4));
  const linears = (folder: string) =>
    [...readModelFolder(at(folder), "int8").tensors].filter(([key]) => isQuantised(key));

  test("of retrain trains on the grid and writes it, and export leaves it as it is", async () => {
    const args = ["--data", at("pictures"), "--split", "all", "--epochs", "2", "--batch", "4", "--val-pictures", "0"];
    await slimvitJson("retrain", at("dense"), "-o", at("trained"), ...args, "--weight-step", String(STEP));
    const { manifest } = readModelFolder(at("trained"));
    expect(manifest.weights.map(({ dtype }) => dtype)).toEqual(["int8"]);
    expect(manifest.provenance).toMatchObject({ steps: [{}, { command: "retrain", weightStep: STEP }] });
    await slimvitJson("export", at("trained"), "-o", at("shipped"), "--dtype", "f16,int8");
    const trained = linears("trained");
    expect(trained.length).toBeGreaterThanOrEqual(3 * 4); // four linears a block
    expect(trained.flatMap(([, { data }]) => [...data]).every((level) => Math.abs(level) < 127 * STEP)).toBe(true);
    expect(linears("shipped")).toEqual(trained);
  });

  test("of export rounds the int8 weights alone", async () => {
    await slimvitJson("export", at("dense"), "-o", at("both"), "--dtype", "f32,int8", "--weight-step", String(STEP));
    const { tensors } = readModelFolder(at("dense"), "f32");
    expect(readModelFolder(at("both"), "f32").tensors).toEqual(tensors);
    expect(readModelFolder(at("both"), "int8").tensors).toEqual(encodeTensors(tensors, "int8", STEP));
  });

  test("is refused where no int8 weights are asked for, or no step is given", async () => {
    const args = ["export", at("dense"), "-o", at("none"), "--dtype", "f16", "--weight-step"];
    await expectFailure([...args, "0.5"], 2, /--weight-step applies to int8 weights, which --dtype does not name/);
    await expectFailure([...args, "0"], 2, /--weight-step.*expected a number above 0/);
  });
});
