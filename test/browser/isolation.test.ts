/** Pages with and without SharedArrayBuffer. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openStage, type Stage } from "./page.ts";

describe.each([
  ["isolated", true],
  ["not isolated", false],
])("in a page that is %s", (_, isolated) => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await openStage(isolated);
  });
  afterAll(() => stage.close());

  test("simd, onnx-wasm and reference agree within 1e-4, in a module worker", async () => {
    const { classes, features, threads } = await stage.page.evaluate(async () => {
      const out = { classes: [] as number[][], features: [] as number[][], threads: [] as number[] };
      for (const engine of ["reference", "onnx-wasm", "simd"]) {
        const vit = await load({ engine, dtype: "f32", threads: 2 });
        const { classes } = await vit.classify(picture(), { topK: 3 });
        const scores: number[] = [];
        for (const { index, score } of classes) scores[index] = Math.log(score);
        out.classes.push(scores);
        out.features.push([...(await vit.embed(picture()))]);
        out.threads.push(vit.info.threads);
        vit.dispose();
      }
      return out;
    });
    for (const engine of [1, 2]) {
      classes[0].forEach((v, k) => void expect(Math.abs(classes[engine][k] - v)).toBeLessThan(1e-4));
      features[0].forEach((v, k) => void expect(Math.abs(features[engine][k] - v)).toBeLessThan(1e-4));
    }
    expect(features[0]).toHaveLength(16);
    expect(threads).toEqual(isolated ? [1, 2, 2] : [1, 1, 1]);
  });
});
