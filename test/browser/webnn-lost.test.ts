/** Contexts that are refused, lost, or computed with: no call is lost, and nothing is left. */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { gpuProcessBytes } from "../robustness/soak.ts";
import type { Stage } from "./page.ts";
import { openWebnnStage } from "./webnnStage.ts";

interface ContextState {
  alive: number;
  made: number;
  losses: number;
}

const workerUrl = "/bundle/webnn-worker.js";

let stage: Stage;
beforeAll(async () => {
  stage = await openWebnnStage();
});
afterAll(() => stage?.close());

/** To webnn-worker.js. */
function tell(message: object): Promise<ContextState> {
  return stage.page.evaluate(
    (message) =>
      new Promise<ContextState>((resolve) => {
        const channel = new BroadcastChannel("webnn");
        channel.onmessage = ({ data }) => {
          channel.close();
          resolve(data);
        };
        channel.postMessage(message);
      }),
    message,
  );
}

test("a context that is lost 20 times loses no call: each is answered on a fresh one, as before", async () => {
  const first = await stage.page.evaluate(async (workerUrl) => {
    Object.assign(globalThis, { vit: await load({ engine: "webnn", workerUrl }) });
    return (await vit.classify(picture())).classes;
  }, workerUrl);
  for (let round = 0; round < 20; round++) {
    await tell({ after: round % 2, times: 1 });
    const { classes, engine, notes } = await stage.page.evaluate(async () => {
      const answers = await Promise.all([vit.classify(picture()), vit.classify(picture())]);
      return { classes: answers.map(({ classes }) => classes), engine: answers[1].engine, notes: vit.info.notes };
    });
    expect(classes).toEqual([first, first]);
    expect(engine).toBe("webnn");
    expect(notes.join()).toMatch(/lost its context .*fresh device took over/);
  }
  expect((await tell({})).losses).toBe(20);
});

test("where no context is left, the call under way is answered by simd, and info says why", async () => {
  await tell({ after: 0, times: 1, refuse: true });
  const { answer, info } = await stage.page.evaluate(async () => ({
    answer: await vit.classify(picture()),
    info: vit.info,
  }));
  expect(answer.engine).toBe("simd");
  expect(info.notes.join()).toMatch(/lost its context .*no context is left.*"simd" took over/);
  await stage.page.evaluate(() => vit.dispose());
});

test("a refused context is the reason that auto gives, for each device, and simd runs", async () => {
  const info = await stage.page.evaluate(async () => {
    const refusing = URL.createObjectURL(
      new Blob(
        [
          `ML.prototype.createContext = async () => { throw new Error("not today"); };
           await import(${JSON.stringify(new URL("/dist/worker.js", location.href).href)});`,
        ],
        { type: "text/javascript" },
      ),
    );
    const vit = await load({ engine: "auto", engineUrls: undefined, workerUrl: refusing, cache: false });
    vit.dispose();
    return vit.info;
  });
  expect(info.engine).toBe("simd");
  const tried = info.tried.filter(({ engine }: { engine: string }) => engine === "webnn");
  expect(tried.map(({ deviceType }: { deviceType: string }) => deviceType)).toEqual(["npu", "gpu", "cpu"]);
  for (const { reason } of tried) expect(reason).toMatch(/gave no WebNN context .*not today/);
});

test("auto measures webnn on each device that there is, and takes the fastest for good", async () => {
  const loadAuto = () =>
    stage.page.evaluate(async () => {
      const vit = await load({ engine: "auto", engineUrls: undefined, dtype: "f32" });
      await vit.classify(picture());
      vit.dispose();
      return vit.info;
    });
  const info = await loadAuto();
  const all = [info, ...info.tried].filter(({ engine }) => engine === "webnn").map(({ deviceType }) => deviceType);
  expect(all.sort()).toEqual(["cpu", "gpu", "npu"]);
  const again = await loadAuto();
  expect([again.engine, again.deviceType]).toEqual([info.engine, info.deviceType]);
  expect(again.engineReason).toMatch(/on an earlier visit/);
});

test("200 rounds of load, classify and dispose leave no context and no memory", async () => {
  const rounds = (count: number) =>
    stage.page.evaluate(
      async ({ count, workerUrl }) => {
        for (let round = 0; round < count; round++) {
          const vit = await load({ engine: "webnn", workerUrl, dtype: "f32" });
          await vit.classify(picture());
          vit.dispose();
        }
      },
      { count, workerUrl },
    );
  await rounds(40);
  const before = await gpuProcessBytes(stage);
  await rounds(160);
  const growth = (await gpuProcessBytes(stage)) - before;
  expect(growth).toBeLessThan(24 * 2 ** 20);
});

test("docs/webnn.md names the flag that the tests use", () => {
  expect(readFileSync("docs/webnn.md", "utf8")).toContain("WebMachineLearningNeuralNetwork");
});
