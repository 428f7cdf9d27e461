/** The package on WebGPU, in its worker, on SwiftShader. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openGpuStage, watchDevices } from "./gpu.ts";
import type { Stage } from "./page.ts";
import { LONG_MS, longestTask, watchTasks } from "./tasks.ts";

const ENGINES = ["webgpu", "tfjs-webgpu", "onnx-webgpu"] as const;

let stage: Stage;
beforeAll(async () => {
  stage = await openGpuStage();
  await watchDevices(stage);
  await watchTasks(stage.page);
});
afterAll(() => stage?.close());

describe.each(ENGINES)("%s", (engine) => {
  test("classifies and embeds as the reference does, in a module worker", async () => {
    const [expected, actual] = await stage.page.evaluate(
      async (engines) => {
        const out = [];
        for (const engine of engines) {
          const vit = await load({ engine, engineUrls: urls, dtype: "f32" });
          const { classes, engine: ran } = await vit.classify(picture(), { topK: 3 });
          const scores: number[] = [];
          for (const { index, score } of classes) scores[index] = Math.log(score);
          out.push({ ran, scores, features: [...(await vit.embed(picture()))] as number[] });
          vit.dispose();
        }
        return out;
      },
      ["reference", engine],
    );
    expect(actual.ran).toBe(engine);
    expected.scores.forEach((v, i) => void expect(actual.scores[i]).toBeCloseTo(v, 3));
    expected.features.forEach((v, i) => void expect(actual.features[i]).toBeCloseTo(v, 3));
  });

  test("has compiled its shaders when load resolves, all of them asynchronously", async () => {
    const [loaded, classified] = await stage.page.evaluate(async (engine) => {
      const vit = await load({ engine, engineUrls: urls, workerUrl: "/bundle/gpu-worker.js" });
      const loaded = await gpu({});
      await vit.classify(picture());
      await vit.classify(picture(300, 200));
      const classified = await gpu({});
      vit.dispose();
      return [loaded, classified];
    }, engine);
    expect(loaded.pipelines).toBeGreaterThan(0);
    expect(classified.pipelines).toBe(loaded.pipelines);
    expect(classified.blocking).toBe(0);
  });

  test("no task on the page's thread is longer than 50 ms, from load to dispose", async () => {
    // A machine that is busy with other things stretches any task by the clock; what freezes a page does so every time.
    let observed = [Number.NaN];
    for (let attempt = 0; attempt < 5 && observed.length > 0; attempt++) {
      const ownMs = await longestTask(stage, async () => {
        observed = await stage.page.evaluate(classifyOnce, engine);
      });
      console.log(
        `${engine}: longest task ${ownMs.toFixed(1)} ms of the processor; by the clock over 50: [${observed}]`,
      );
      // Without a long task by the clock, a longer one of the trace lies outside of what was observed.
      if (observed.length) expect(ownMs).toBeLessThanOrEqual(LONG_MS);
    }
    expect(observed).toEqual([]);
  });
});

/** Runs in the page. @returns its long tasks meanwhile */
function classifyOnce(engine: string): Promise<number[]> {
  return observeTasks(async () => {
    const vit = await load({ engine, engineUrls: urls, cache: false });
    await vit.classify(picture(200, 200));
    await vit.classify(picture(200, 200));
    vit.dispose();
  });
}

test("a task that freezes the page is seen, by the trace and by the observer", async () => {
  let observed: number[] = [];
  const ownMs = await longestTask(stage, async () => {
    observed = await stage.page.evaluate(() =>
      observeTasks(async () => {
        await new Promise((resolve) => setTimeout(resolve));
        for (let x = 1, k = 0; k < 3e8 || x === 0; k++) x = (x * 16807) % 2147483647;
      }),
    );
  });
  expect(ownMs).toBeGreaterThan(LONG_MS);
  expect(observed.length).toBeGreaterThan(0);
});

describe.each(["webgpu", "tfjs-webgpu"])("%s", (engine) => {
  test("profiles its blocks and explains them as the reference does", async () => {
    const [expected, actual] = await stage.page.evaluate(async (engine) => {
      const out = [];
      for (const name of ["reference", engine]) {
        const vit = await load({ engine: name, engineUrls: urls, dtype: "f32" });
        const { blockMs, attention } = await vit.classify(picture(), { profile: true, explain: true });
        out.push({ blockMs: [...blockMs] as number[], attention: attention.map((map: Float32Array) => [...map]) });
        vit.dispose();
      }
      return out;
    }, engine);
    expect(actual.blockMs).toHaveLength(3);
    for (const ms of actual.blockMs) expect(ms).toBeGreaterThan(0);
    expect(actual.attention.map((map: number[]) => map.length)).toEqual([15, 0, 3]);
    for (const [i, map] of expected.attention.entries()) {
      map.forEach((v: number, k: number) => void expect(actual.attention[i][k]).toBeCloseTo(v, 4));
    }
  });
});

describe("tfjs-webgpu", () => {
  test("an abort stops between blocks, and the next call works", async () => {
    const out = await stage.page.evaluate(async () => {
      const { model } = await loadModel("/models/tiny/");
      const { engine } = await openEngine("tfjs-webgpu", model, { engineUrls: urls });
      const { imageSize } = model.manifest;
      const pixels = new Float32Array(3 * imageSize[0] * imageSize[1]).fill(0.3);
      const full = await engine.run(pixels);
      // Read once before the run and once before each of the three blocks.
      let reads = 0;
      const signal = {
        get aborted() {
          return ++reads > 2;
        },
      } as AbortSignal;
      const error = await engine.run(pixels, { signal }).catch((error: { code: string }) => error.code);
      const again = await engine.run(pixels);
      engine.dispose();
      return { error, reads, same: again.logits.every((v, i) => v === full.logits[i]) };
    });
    expect(out).toMatchObject({ error: "aborted", reads: 3, same: true });
  });
});

test("an engine whose package is nowhere says what to install or to pass", async () => {
  const errors = await stage.page.evaluate(async (engines) => {
    const errors = [];
    for (const engine of engines) errors.push(await failure(load({ engine, engineUrls: {} })));
    errors.push(
      await failure(load({ engine: "tfjs-webgpu", engineUrls: { "slimvit/engine-tfjs.js": "/nowhere.js" } })),
    );
    return errors;
  }, ENGINES.slice(1));
  for (const error of errors) expect(error).toMatchObject({ code: "unsupported", ours: true });
  expect(errors[0].message).toMatch(/npm install @tensorflow\/tfjs-core .*engineUrls/);
  expect(errors[1].message).toMatch(/npm install onnxruntime-web.*onnxruntime-web\/webgpu/);
  expect(errors[2].message).toMatch(/engine-tfjs\.js did not load/);
});
