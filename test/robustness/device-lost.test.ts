import { afterEach, beforeEach, expect, test } from "vitest";
import { type GpuState, openGpuStage, watchDevices } from "../browser/gpu.ts";
import type { Stage } from "../browser/page.ts";
import { count, isFull, Tally } from "./tally.ts";

let stage: Stage;
beforeEach(async () => {
  stage = await openStage();
});
afterEach(() => stage?.close());

async function openStage(): Promise<Stage> {
  const opened = await openGpuStage();
  await watchDevices(opened);
  return opened;
}

interface Answer {
  engine: string;
  /** of the engine as `info` has it */
  informed: string;
  logProbabilities: number[];
  notes: string[];
  gpu: GpuState;
}

/** Ways to lose a GPU: by `device.destroy()`, before the call or after so many submissions of work in it, once or again. */
const WAYS: { message: { after?: number; times?: number; now?: true; adapters?: false }; goesOn: "gpu" | "simd" }[] = [
  { message: { now: true }, goesOn: "gpu" },
  { message: { after: 0, times: 1 }, goesOn: "gpu" },
  { message: { after: 1, times: 1 }, goesOn: "gpu" },
  { message: { after: 2, times: 1 }, goesOn: "gpu" },
  { message: { after: 0, times: 2 }, goesOn: "simd" }, // the fresh one as well
  { message: { now: true, adapters: false }, goesOn: "simd" }, // and no other is to be had
];

function open(engine: string): Promise<Answer> {
  return stage.page.evaluate(async (engine) => {
    const options = { engine, engineUrls: urls, dtype: "f32", workerUrl: "/bundle/gpu-worker.js", cache: false };
    const vit = await load(options);
    const classify = async () => {
      const { classes, engine } = await vit.classify(picture(), { topK: 99 });
      const logProbabilities: number[] = [];
      for (const { index, score } of classes) logProbabilities[index] = Math.log(score);
      return { engine, informed: vit.info.engine, logProbabilities, notes: vit.info.notes, gpu: await gpu({}) };
    };
    Object.assign(globalThis, { vit, classify });
    return classify();
  }, engine);
}

const dispose = () => stage.page.evaluate(() => vit.dispose());

/** What is wrong with an answer after a loss; "" for nothing. */
function fault(answer: Answer, expected: Answer, engine: string, said: RegExp): string {
  const { logProbabilities, notes } = answer;
  const off = Math.max(...logProbabilities.map((v, i) => Math.abs(v - expected.logProbabilities[i])));
  const isRight = off < 1e-3 && answer.engine === engine && answer.informed === engine && said.test(notes.join(" "));
  return isRight ? "" : JSON.stringify({ ...answer, off });
}

declare global {
  // biome-ignore lint/suspicious/noExplicitAny: the page's own, built copy of the package
  var vit: any;
  var classify: () => Promise<Answer>;
}

/** onnxruntime-web takes seconds to open, 40 times in full. */
const MOST_MS = isFull ? 2_400_000 : 600_000;

test.each(["webgpu", "tfjs-webgpu", "onnx-webgpu"])(
  "%s: a call whose GPU is lost is answered all the same",
  async (name) => {
    const tally = new Tally("device-lost", `${name}, device.destroy()`);
    for (let round = 0; round < count(5, 1); round++) {
      let expected: Answer | undefined;
      for (const { message, goesOn } of WAYS) {
        expected ??= await open(name);
        const { losses } = expected.gpu;
        let answer = await stage.page.evaluate((message) => gpu(message).then(classify), message);
        // An engine that submits once a call is lost in a later call.
        for (let calls = message.after ?? 0; calls > 0 && answer.gpu.losses === losses; calls--)
          answer = await stage.page.evaluate(() => classify());
        const engine = goesOn === "gpu" ? name : "simd";
        const said = goesOn === "gpu" ? /lost its GPU .*fresh device took over/ : /lost its GPU .*"simd" took over/;
        tally.add(fault(answer, expected, engine, said));
        expect(answer.gpu.losses).toBeGreaterThan(losses);
        tally.add(fault(await stage.page.evaluate(() => classify()), expected, engine, said)); // and later calls go on
        expected = { ...expected, gpu: answer.gpu };
        if (goesOn === "gpu") continue;
        await dispose();
        expected = undefined;
      }
    }
    tally.close();
  },
  MOST_MS,
);

test.each(["webgpu", "tfjs-webgpu", "onnx-webgpu"])(
  "%s: the browser's GPU process crashes in mid-classify",
  async (name) => {
    const tally = new Tally("device-lost", `${name}, GPU process crashed`);
    for (let round = 0; round < count(3, 1); round++) {
      if (round > 0) {
        await stage.close(); // Chromium keeps the GPU from pages that have crashed it more than once
        stage = await openStage();
      }
      const browser = await stage.browser.newBrowserCDPSession();
      const expected = await open(name);
      const flying = stage.page.evaluate(() => classify());
      await browser.send("Browser.crashGpuProcess" as "Browser.getVersion");
      await flying; // may have been answered before
      const answer = await stage.page.evaluate(() => classify());
      tally.add(fault(answer, expected, answer.engine, /lost its GPU \(unknown.* took over/));
      tally.add(fault(await stage.page.evaluate(() => classify()), expected, answer.engine, /took over/));
      await dispose();
    }
    tally.close();
  },
);
