/** What inspect shows of a network that is not square, and has two tokens before its patches. */
import { describe, expect, test } from "vitest";
import { writeModelFolder } from "../../../tools/models/folders.ts";
import { accuracySummary, accuracyText } from "../../../tools/models/history.ts";
import { inspect, inspectTable } from "../../../tools/models/inspect.ts";
import { manifestOf } from "../../helpers.ts";
import { randomTensors, tinyArchitecture, workplace } from "../fixtures.ts";

const at = workplace("inspect");

/** Two rows of four patches; the second block keeps the first and the last of the upper row, and the last of the lower. */
function write(name: string): string {
  const imageSize: [number, number] = [16, 32];
  const all = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
  const blocks = [all, [0, 1, 2, 5, 9]].map((keepIdx) => ({ headDims: [8, 8], mlpHidden: 24, keepIdx, merge: 0 }));
  const arch = tinyArchitecture({ imageSize, prefixTokens: 2, distilled: true, blocks });
  const accuracy = [0.5, 0.75].map((top1, k) => ({ top1, data: `set ${k}`, split: "test", n: 8, dtype: "f32" }));
  const manifest = { ...manifestOf(arch, 3), name, metrics: { accuracy } };
  writeModelFolder(at(name), manifest, randomTensors(arch, 3, 1), ["f32", "f16", "int8"], {}, true);
  return at(name);
}

describe("inspect", () => {
  test("draws the grid row by row, without the tokens before the patches", () => {
    const { text } = inspect(write("grid"));
    expect(text).toMatch(/tokens from block 0:\n████\n████\ntokens from block 1:\n█··█\n···█$/);
  });

  test("counts the bytes of the smallest weights", () => {
    const { inspection, text } = inspect(write("sizes"));
    const [f32, f16, int8] = ["f32", "f16", "int8"]
      .map((dtype) => text.match(`${dtype}: ([\\d.]+) MB`)![1])
      .map(Number);
    expect(f32).toBeGreaterThan(f16);
    expect(f16).toBeGreaterThan(int8);
    expect(inspection.sizeBytes / 1e6).toBeCloseTo(int8, 2);
  });

  test("has a line for each model, with width before height and the newest accuracy", () => {
    const [, line] = inspectTable([write("table"), write("other")]).split("\n");
    expect(line).toMatch(/ table +32×16 /);
    expect(line).toMatch(/ 75\.0 % \(set 1, test\)$/);
  });
});

test("a training's summary has its last, its best and its first accuracy", () => {
  const history = [0.1, 0.6, 0.4, 0.5].map((top1, step) => ({
    step,
    loss: 1,
    ...(step !== 2 && { "val.top1": top1 }),
  }));
  expect(accuracySummary(history)).toEqual(["top-1 50.0 % at the end, 60.0 % at best (step 1), 10.0 % at the start"]);
  expect(accuracySummary(history.slice(1))).toEqual(["top-1 50.0 % at the end, 60.0 % at best (step 1)"]);
});

test("the accuracy of several networks is their mean, and each one's own behind it", () => {
  const accuracy = { "val.top1": 0.7, "val.top1.large": 0.8, "val.top1.small": 0.6, "val.divergence": 0.04125 };
  expect(accuracyText(accuracy)).toBe("top-1 70.0 % (large 80.0 %, small 60.0 %), divergence in nats 0.0413");
});
