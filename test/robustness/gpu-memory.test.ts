import { afterAll, beforeAll, expect, test } from "vitest";
import { type GpuState, openGpuStage, watchDevices } from "../browser/gpu.ts";
import type { Stage } from "../browser/page.ts";
import { count, Tally } from "./tally.ts";

let stage: Stage;
beforeAll(async () => {
  stage = await openGpuStage();
  await watchDevices(stage);
});
afterAll(() => stage?.close());

type Alive = GpuState["alive"];

const ROUNDS = count(200, 6);
/** Against hangs; a round takes two seconds, or on a busy machine a minute. */
const MOST_MS = ROUNDS * 100_000;

/** In one worker, whose end frees nothing: what the engines themselves let go of. */
test.each(["tfjs-webgpu", "onnx-webgpu"])(
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
