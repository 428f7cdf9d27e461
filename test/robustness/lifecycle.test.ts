import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { keepWorkers, openStage, type Stage } from "../browser/page.ts";
import { count, Tally } from "./tally.ts";

const SHIPPED = fileURLToPath(new URL("../../models", import.meta.url));

let stage: Stage;
beforeAll(async () => {
  // The flag makes measureUserAgentSpecificMemory answer at once, after a collection.
  stage = await openStage(true, { "/shipped": SHIPPED }, ["--enable-blink-features=ForceEagerMeasureMemory"]);
  await keepWorkers(stage.page);
  await stage.page.evaluate(() => {
    const memory = performance as unknown as { measureUserAgentSpecificMemory(): Promise<{ bytes: number }> };
    Object.assign(globalThis, {
      heldBytes: async () => (await memory.measureUserAgentSpecificMemory()).bytes,
      wait: (ms: number) => new Promise((resolve) => setTimeout(resolve, ms)),
    });
  });
});
afterAll(() => stage?.close());

declare global {
  /** by the page and its workers, after a collection */
  var heldBytes: () => Promise<number>;
  var wait: (ms: number) => Promise<void>;
}

test("a worker killed in mid-classify rejects the call within 1 s, and the next one works", async () => {
  const tally = new Tally("worker-killed", "workers killed");
  const { before, rounds } = await stage.page.evaluate(
    async (rounds) => {
      const vit = await load({ engine: "reference" });
      try {
        const before = (await vit.classify(picture())).classes[0].score;
        const start = performance.now();
        await vit.classify(picture(1500, 1500));
        let latestMs = 0.7 * (performance.now() - start);
        // How long this thread was not let run: a machine that has other work is not the package's delay.
        let [last, heldUp] = [performance.now(), 0];
        const beat = setInterval(() => {
          const now = performance.now();
          heldUp += Math.max(0, now - last - 20);
          last = now;
        }, 10);
        const out = [];
        for (let k = 0; out.length < rounds && k < 20 * rounds; k++) {
          const flying = failure(vit.classify(picture(1500, 1500)));
          await wait(((0.618 * k) % 1) * latestMs);
          workers.at(-1)!.terminate(); // fires no event
          const [killed, heldBefore] = [performance.now(), heldUp];
          const { code, ours } = await flying;
          const ms = performance.now() - killed - (heldUp - heldBefore);
          if (code === "none") {
            latestMs *= 0.7; // it was answered before: no kill in mid-classify, and not counted
            await failure(vit.classify(picture()));
            continue;
          }
          out.push({ code, ours, ms, after: (await vit.classify(picture())).classes[0].score });
        }
        clearInterval(beat);
        return { before, rounds: out };
      } finally {
        vit.dispose();
      }
    },
    count(100, 8),
  );
  expect(rounds).toHaveLength(count(100, 8));
  const isRight = (r: (typeof rounds)[0]) => r.code === "worker-lost" && r.ours && r.ms < 1000 && r.after === before;
  for (const round of rounds) tally.add(isRight(round) ? "" : JSON.stringify(round));
  tally.measured = `rejected after at most ${Math.max(...rounds.map(({ ms }) => ms)).toFixed(0)} ms`;
  tally.close();
});

test("the worker answers its six methods and nothing else", async () => {
  const tally = new Tally("worker-methods", "messages");
  const { answered, sent, code } = await stage.page.evaluate(async () => {
    const vit = await load({ engine: "reference" });
    const worker = workers.at(-1)!;
    const answered: string[] = [];
    const messages: unknown[] = [
      null,
      undefined,
      0,
      "load",
      [],
      [{}],
      {},
      { id: "x" },
      { id: "x", type: "APPLY" },
      { type: 1, path: 1 },
    ];
    const paths = [
      [],
      ["load", "constructor"],
      ["constructor"],
      ["__proto__"],
      ["toString"],
      ["hello", "call"],
      ["run", "bind"],
    ];
    const odd = [
      ["session"],
      ["load", "prototype"],
      ["constructor", "constructor"],
      [["abort"]],
      [{}],
      [null],
      "abort",
      { length: 1, 0: "eval" },
    ];
    for (const type of ["GET", "SET", "APPLY", "CONSTRUCT", "ENDPOINT"])
      for (const path of [...paths, ...odd])
        messages.push({
          type,
          path,
          value: { type: "RAW", value: 1 },
          argumentList: [{ type: "RAW", value: "self.harmed = 1" }],
        });
    for (const type of ["GET", "SET", "CONSTRUCT"])
      messages.push({ type, path: ["load"], value: { type: "RAW", value: 1 }, argumentList: [] });
    const listen = ({ data }: MessageEvent) => void (String(data?.id).startsWith("probe") && answered.push(data.id));
    worker.addEventListener("message", listen);
    messages.forEach((message, k) => {
      const isObject = typeof message === "object" && message !== null && !Array.isArray(message);
      worker.postMessage(isObject ? { ...message, id: `probe ${k} ${JSON.stringify(message)}` } : message);
    });
    const { code } = await failure(vit.classify(picture())); // behind them all
    await wait(100);
    worker.removeEventListener("message", listen);
    vit.dispose();
    return { answered, sent: messages.length, code };
  });
  for (let k = 0; k < sent; k++) tally.add(answered[k]);
  tally.add(code === "none" ? "" : `the next call: ${code}`);
  tally.close();
});

test("an abort at a random moment frees the worker within a block's time, and nothing is left of it", async () => {
  const tally = new Tally("abort", "aborts of the shipped slim model on simd");
  const { rounds, times, blockMs, grown, same } = await stage.page.evaluate(
    async (rounds) => {
      const vit = await load({ engine: "simd", dtype: "f16", threads: 1 }, "/shipped/deit-tiny-slim/");
      const top = async () => (await vit.classify(picture())).classes[0].score;
      const before = await top();
      const times: number[] = [];
      let blockMs = 0;
      for (let k = 0; k < 5; k++) {
        const { latencyMs, blockMs: blocks } = await vit.classify(picture(), { profile: true });
        times.push(latencyMs.total);
        blockMs = Math.max(blockMs, ...blocks);
      }
      const round = async (k: number) => {
        const controller = new AbortController();
        const flying = failure(vit.classify(picture(), { signal: controller.signal }));
        await wait(((k * 0.618) % 1) * Math.max(...times));
        const start = performance.now();
        controller.abort();
        const { code } = await flying;
        const settledMs = performance.now() - start;
        await failure(vit.classify(picture(1, 1), { topK: 0 })); // answered when the worker is free
        return { code, settledMs, freeMs: performance.now() - start };
      };
      for (let k = 0; k < 5; k++) await round(k);
      const held = await heldBytes();
      const out = [];
      for (let k = 0; k < rounds; k++) out.push(await round(k));
      const grown = (await heldBytes()) - held;
      const same = (await top()) === before;
      vit.dispose();
      return { rounds: out, times, blockMs, grown, same };
    },
    count(500, 40),
  );
  /** The worker looks for aborts every 8 ms; the rest is for messages on a machine that does other things as well. */
  const limit = blockMs + 8 + 250;
  const stuck = blockMs + 8 + 2000; // how soon the worker is free, the median says; one that a busy machine holds up is no harm
  for (const r of rounds) {
    const isSettled = (r.code === "aborted" || r.code === "none") && r.settledMs < limit && r.freeMs < stuck;
    tally.add(isSettled ? "" : JSON.stringify(r));
  }
  tally.add(same ? "" : "another answer after the aborts");
  tally.add(grown < 2e6 ? "" : `memory grew by ${grown} bytes`);
  const median = (values: number[]) => values.toSorted((a, b) => a - b)[values.length >> 1];
  const free = rounds.map(({ freeMs }) => freeMs);
  // Were aborts overlooked, half of a whole call would be left to wait for.
  const isSoon = median(free) < median(times) / 4;
  tally.add(isSoon ? "" : `free after ${median(free)} ms; a call takes ${median(times)} ms`);
  tally.measured = `worker free after ${median(free).toFixed(1)} ms of the ${median(times).toFixed(0)} of a call, at most ${Math.max(...free).toFixed(0)}; a block takes up to ${blockMs.toFixed(0)}`;
  tally.close();
});

test("two tabs and two models at once answer as each alone", async () => {
  const tally = new Tally("two-tabs", "answers in two tabs with two models each");
  const context = await stage.browser.newContext(); // one storage for both
  const [tab, other] = [await context.newPage(), await context.newPage()];
  for (const page of [tab, other]) await page.goto(`${stage.origin}/`);
  // As a script, not a function: the test runner would rewrite its import().
  const script = (rounds: number) => `(async () => {
    const { SlimViT } = await import("/dist/index.js");
    const data = Uint8ClampedArray.from({ length: 50 * 40 * 4 }, (_, i) => (i % 4 === 3 ? 255 : (i * 37) % 256));
    const scores = [];
    for (let k = 0; k < ${rounds}; k++) {
      const models = await Promise.all(["f32", "int8"].map((dtype) => SlimViT.load("/models/tiny/", { engine: "simd", dtype })));
      const calls = [...models, ...models].map((vit) => vit.classify({ data, width: 50, height: 40 }));
      scores.push((await Promise.all(calls)).map((result) => result.classes[0].score));
      for (const vit of models) vit.dispose();
    }
    return scores;
  })()`;
  const run = ([page, rounds]: [typeof other, number]) => page.evaluate<number[][]>(script(rounds));
  const [alone] = await run([other, 1]);
  const rounds = count(50, 4);
  const together = await Promise.all([run([tab, rounds]), run([other, rounds])]);
  for (const scores of together.flat())
    scores.forEach(
      (score, k) => void tally.add(score === alone[k] ? "" : `model ${k % 2}: ${score}, alone ${alone[k]}`),
    );
  await context.close();
  tally.close();
});

test("load, classify, dispose, again and again, leaves no worker and no memory", async () => {
  const tally = new Tally("soak", "cycles of load, classify, dispose");
  const [batches, batch] = [count(20, 6), count(50, 4)];
  const held: number[] = [];
  for (let k = -1; k < batches; k++) {
    const failures = await stage.page.evaluate(async (batch) => {
      const failures: string[] = [];
      for (let k = 0; k < batch; k++) {
        const vit = await load({ engine: "simd", dtype: "f32", threads: 2 });
        const { code, message } = await failure(vit.classify(picture()));
        failures.push(code === "none" ? "" : message);
        vit.dispose();
        workers.length = 0; // the page's own hold on them
      }
      return failures;
    }, batch);
    await expect.poll(() => stage.page.workers().length, { timeout: 20_000 }).toBe(0);
    const bytes = await stage.page.evaluate(() => heldBytes());
    if (k < 0) continue; // the first ones warm up
    for (const message of failures) tally.add(message);
    held.push(bytes);
  }
  const slope = slopeOf(held) / batch;
  tally.add(slope < MAX_SLOPE ? "" : `memory grows by ${slope.toFixed(0)} bytes a cycle: ${held}`);
  tally.measured = `0 workers left, memory ${slope.toFixed(0)} bytes a cycle, the median slope`;
  tally.close();
});

/** Bytes a cycle. Bare workers, started and terminated, measure 0 to 500; all that a load leaves behind when it is held, 3,000. */
const MAX_SLOPE = 1000;

/** The median of the slopes between all pairs (Theil–Sen): one odd value among them does not count. */
function slopeOf(values: number[]): number {
  const slopes = values.flatMap((v, k) => values.slice(0, k).map((before, j) => (v - before) / (k - j)));
  return slopes.sort((a, b) => a - b)[slopes.length >> 1];
}
