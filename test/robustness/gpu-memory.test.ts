import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { type GpuState, openGpuStage, watchDevices } from "../browser/gpu.ts";
import type { Stage } from "../browser/page.ts";
import { randomModel } from "../helpers.ts";
import { gpuProcessBytes } from "./soak.ts";
import { count, Tally } from "./tally.ts";

let stage: Stage;
let wideBytes = 0;
beforeAll(async () => {
  stage = await openGpuStage();
  await watchDevices(stage);
  const { manifest, tensors } = wideModel();
  const { format: _, weights: __, ...draft } = manifest;
  writeModelFolder(join(stage.models, "wide"), draft, tensors, ["f32"]);
  for (const { data } of tensors.values()) wideBytes += data.byteLength;
});
afterAll(() => stage?.close());

type Alive = GpuState["alive"];

const ROUNDS = count(200, 6);
/** Against hangs; a round takes two seconds, or on a busy machine a minute. */
const MOST_MS = ROUNDS * 100_000;

/** In one worker, whose end frees nothing: what the engines themselves let go of. */
test.each(["webgpu", "tfjs-webgpu", "onnx-webgpu"])(
  "%s: load, classify, dispose leaves no device, buffer or texture",
  async (engine) => {
    const tally = new Tally("soak", `${engine}, load, classify, dispose`);
    const start = performance.now();
    await stage.page.exposeFunction(`${engine}-round`, (round: number) => {
      const seconds = (performance.now() - start) / 1000 / round;
      if (round % 10 === 0 || round === ROUNDS)
        console.log(`${engine}: round ${round} of ${ROUNDS}, ${seconds.toFixed(1)} s each`);
    });
    const result = await stage.page.evaluate(
      ({ engine, rounds }) =>
        new Promise<{ loaded: Alive[]; left: Alive[]; error?: string }>((resolve) => {
          const worker = new Worker("/bundle/gpu-rounds.js", { type: "module" });
          const channel = new BroadcastChannel("rounds");
          const source = { url: new URL("/models/tiny/", location.href).href };
          const engineUrls = Object.fromEntries(
            Object.entries(urls).map(([k, v]) => [k, new URL(v, location.href).href]),
          );
          const request = { source, engine, dtype: "f32", threads: 1, engineUrls };
          channel.onmessage = ({ data }) => {
            if (data.ready) return channel.postMessage({ request, image: picture(), rounds });
            if (data.round)
              return void (globalThis as unknown as Record<string, (round: number) => void>)[`${engine}-round`](
                data.round,
              );
            worker.terminate();
            channel.close();
            resolve(data);
          };
        }),
      { engine, rounds: ROUNDS },
    );
    expect(result.error).toBeUndefined();
    for (const left of result.left) {
      tally.add(left.devices || left.buffers || left.textures ? JSON.stringify(left) : "");
    }
    const left = result.left.at(-1)!;
    const buffers = result.loaded.map((loaded) => loaded.buffers);
    expect(Math.min(...buffers)).toBeGreaterThan(0); // the count sees them
    expect(Math.max(...buffers)).toBeLessThanOrEqual(buffers[0] + 2); // and no round needs more than the first
    tally.measured = `${buffers[0]} buffers while loaded; after round ${ROUNDS} ${left.buffers} buffers, ${left.textures} textures`;
    tally.close();
  },
  MOST_MS,
);

/** Weights of 25 MB and little arithmetic. */
function wideModel() {
  const keepIdx = [0, 1, 2, 3, 4];
  const block = { headDims: [16], mlpHidden: 1984, keepIdx };
  return randomModel(
    {
      imageSize: [16, 16],
      patchSize: 8,
      embedDim: 512,
      headDim: 16,
      layerNormEps: 1e-6,
      prefixTokens: 1,
      blocks: [block, block, block],
    },
    1,
  );
}

/** As pages do it: a worker a load, which `dispose()` ends. */
test.each(["webgpu", "tfjs-webgpu", "onnx-webgpu"])(
  "%s: dispose gives the browser's memory back",
  async (engine) => {
    const rounds = count(20, 3);
    const tally = new Tally("soak", `${engine}, load, classify, dispose, with a worker each`);
    let start = Number.NaN;
    let left = Number.NaN;
    for (let round = 0; round <= rounds; round++) {
      await stage.page.evaluate(async (engine) => {
        const options = { engine, engineUrls: urls, dtype: "f32", cache: false };
        Object.assign(globalThis, { vit: await load(options, "/models/wide/") });
        await vit.classify(picture());
      }, engine);
      const loaded = await gpuProcessBytes(stage);
      await stage.page.evaluate(() => vit.dispose());
      if (round === 0) await new Promise((resolve) => setTimeout(resolve, 10_000)); // workers end after the call
      const end = performance.now() + 30_000;
      do left = await gpuProcessBytes(stage);
      while (left > start + wideBytes && performance.now() < end);
      if (round === 0) {
        start = left; // compilers and threads stay
        continue;
      }
      expect(loaded).toBeGreaterThan(start + wideBytes); // the measure sees them
      tally.add(left > start + wideBytes ? `round ${round}: ${left} bytes, at the start ${start}` : "");
    }
    const mb = (bytes: number) => (bytes / 1e6).toFixed(0);
    tally.measured = `${mb(start)} MB in the GPU process after a first round, ${mb(left)} MB after ${rounds} more, weights of ${mb(wideBytes)} MB`;
    tally.close();
  },
  MOST_MS,
);
