/** Several variants in a page: the smallest answers first, and a stream keeps its budget on a device that slows down. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Architecture, plainArchitecture, type WeightsDtype } from "../../src/format/model.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { cutToWidths } from "../../tools/elastic/cut.ts";
import { writeElasticFolder } from "../../tools/elastic/folder.ts";
import { manifestOf, randomModel } from "../helpers.ts";
import { openStage, type Stage } from "./page.ts";

const NAMES = ["v6", "v14", "v35", "v100"];

/** Widths whose MACs are far apart: a fourth of the speed has to be made up for. */
const archs = (
  [
    [8, 64],
    [24, 160],
    [24, 320],
    [64, 768],
  ] as const
).map(([headDim, mlpHidden], i) => {
  const heads = i < 2 ? 1 : i === 2 ? 2 : 3;
  const block = { headDims: Array<number>(heads).fill(headDim), mlpHidden, keepIdx: [...Array(257).keys()] };
  return plainArchitecture({
    ...{ imageSize: [128, 128], patchSize: 8, embedDim: 192, headDim: 64, layerNormEps: 1e-6, prefixTokens: 1 },
    blocks: Array.from({ length: 8 }, () => block),
  });
});

let stage: Stage;
beforeAll(async () => {
  stage = await openStage();
  const large = randomModel(archs[3], 3);
  const encoded = new Map((["int8"] as WeightsDtype[]).map((dtype) => [dtype, encodeTensors(large.tensors, dtype)]));
  const variants = archs.map((arch: Architecture, i) => ({
    name: NAMES[i],
    manifest: manifestOf(arch),
    tensors: (dtype: WeightsDtype) => cutToWidths(encoded.get(dtype)!, large.manifest, arch),
  }));
  const { weights: _, format: __, ...draft } = large.manifest;
  await writeElasticFolder(join(stage.models, "elastic"), { draft, variants, dtypes: ["int8"] });
  const session = await stage.page.context().newCDPSession(stage.page);
  const setRate = (rate: number) => session.send("Emulation.setCPUThrottlingRate", { rate });
  await stage.page.exposeFunction("throttle", setRate);
  const content = 'import { createHost } from "/dist/worker.js"; globalThis.createHost = createHost;';
  await stage.page.addScriptTag({ type: "module", content });
  await stage.page.waitForFunction(() => "createHost" in globalThis);
}, 120_000);
afterAll(() => stage?.close());

declare global {
  var throttle: (rate: number) => Promise<void>;
  var createHost: () => unknown;
}

test("in a worker: the smallest answers, the best comes by ranges, use() needs no download", async () => {
  const out = await stage.page.evaluate(async () => {
    const options = { engine: "simd", latencyMs: 1e6, cache: true };
    const changed: string[] = [];
    let tell = () => {};
    const settled = new Promise<void>((resolve) => (tell = resolve));
    const onVariant = ({ variant }: { variant: string }) => {
      changed.push(variant);
      tell();
    };
    const vit = await load({ ...options, onVariant }, "/models/elastic/");
    const first = vit.info.variant;
    await settled;
    const requests = () => performance.getEntriesByType("resource").length;
    const before = requests();
    const times: number[] = [];
    const answers: [string, number][] = [];
    const names: string[] = vit.info.variants.map(({ name }: { name: string }) => name);
    for (let k = 0; k < 40; k++) {
      const name = names[(k * 3) % names.length];
      const start = performance.now();
      await vit.use(name);
      times.push(performance.now() - start);
      const { variant, classes } = await vit.classify(picture(96, 96));
      answers.push([variant, classes[0].score]);
    }
    const { memoryBytes } = vit.info;
    vit.dispose();
    const alone = await load({ engine: "simd", variant: names[0] }, "/models/elastic/");
    const largest = (await alone.classify(picture(96, 96))).classes[0].score;
    alone.dispose();
    const wanted = Array.from({ length: 40 }, (_, k) => names[(k * 3) % names.length]);
    return { first, changed, answers, wanted, times, extra: requests() - before, memoryBytes, largest };
  });
  expect(out.first).toBe("v6");
  expect(out.changed).toEqual(["v100"]);
  expect(out.answers.map(([variant]) => variant)).toEqual(out.wanted);
  const scores = new Map<string, Set<number>>();
  for (const [variant, score] of out.answers) scores.set(variant, (scores.get(variant) ?? new Set()).add(score));
  for (const [, found] of scores) expect(found.size).toBe(1);
  expect([...scores.get("v100")!][0]).toBeCloseTo(out.largest, 5);
  out.times.sort((a, b) => a - b);
  console.log(`use(): median ${out.times[20].toFixed(1)} ms, at most ${out.times[39].toFixed(1)} ms`);
});

/** A stream before, under and after a CPU that is four times as slow. */
const streamThrottled = () =>
  stage.page.evaluate(async () => {
    // The page's own thread is the one that DevTools throttle.
    const vit = await load({ engine: "simd", host: createHost, latencyMs: 1e6 }, "/models/elastic/");
    while (!vit.info.choice) await new Promise((resolve) => setTimeout(resolve, 20));
    const names = vit.info.variants.map(({ name }: { name: string }) => name);
    const medianMs = async () => {
      const times: number[] = [];
      for (let k = 0; k < 15; k++) times.push((await vit.classify(picture(96, 96))).latencyMs.total);
      return times.sort((a, b) => a - b)[7];
    };
    const usual = await medianMs();
    await throttle(4);
    const slow = await medianMs();
    await throttle(1);
    const budget = Math.sqrt(usual * slow); // what other work on the machine leaves of the factor of four
    const start = performance.now();
    const frames: { at: number; ms: number; variant: string; phase: number }[] = [];
    let phase = 0;
    let isDone = false;
    const pictures = async function* () {
      while (!isDone) {
        yield picture(96, 96);
        await new Promise((resolve) => setTimeout(resolve, 8));
      }
    };
    const next = async (rate: number) => {
      await throttle(rate);
      phase++;
    };
    const changes: string[] = [];
    const onVariant = ({ variant }: { variant: string }) => void changes.push(variant);
    let from = 0; // of the phase
    for await (const { latencyMs, variant } of vit.stream(pictures(), { latencyMs: budget, onVariant })) {
      const at = performance.now() - start;
      frames.push({ at, ms: latencyMs.total, variant, phase });
      const isLargest = variant === names[0];
      const settled = frames.filter((frame) => frame.phase === phase && frame.at > from + 2000).length;
      // Before and after the throttle the largest has to run, which other work can prevent for a while.
      const isOver = phase === 1 ? settled >= 30 && at > from + 6000 : settled >= 10 && isLargest;
      if (!isOver && at < from + 30_000) continue;
      from = at;
      if (phase === 2) isDone = true;
      else await next(phase === 0 ? 4 : 1);
    }
    vit.dispose();
    return { frames, budget, largest: names[0], changes };
  });

const SECONDS_TO_SETTLE = 2;

// Other work that begins or ends on this machine meanwhile makes the budget a wrong one, or breaks it: shown once is
// shown. What the pace does with given times is tested in test/page/pace.test.ts.
const MEASURED = { retry: 7 };

test(
  "under a CPU four times as slow a stream keeps its budget after two seconds, and returns afterwards",
  MEASURED,
  async () => {
    const { frames, budget, largest, changes } = await streamThrottled();
    const throttled = frames.filter(({ phase }) => phase === 1);
    const settled = throttled.filter(({ at }) => at > throttled[0].at + 1000 * SECONDS_TO_SETTLE);
    const within = settled.filter(({ ms }) => ms <= budget).length / settled.length;
    const used = [...new Set(settled.map(({ variant }) => variant))];
    console.log(
      `budget ${budget.toFixed(1)} ms: ${(100 * within).toFixed(0)} % of ${settled.length} frames, by ${used.join(", ")}; ${changes.join(" → ")}`,
    );
    const tooSlow = throttled.filter(({ variant }) => variant === largest).map(({ ms }) => ms);
    expect(tooSlow.sort((a, b) => a - b)[tooSlow.length >> 1]).toBeGreaterThan(budget);
    expect(within).toBeGreaterThanOrEqual(0.8);
    expect(settled.at(-1)!.variant).not.toBe(largest);
    expect(frames.at(-1)!.variant).toBe(largest);
    expect(changes.at(-1)).toBe(largest);
  },
);

test("what the page fetches for the smallest variant is its slab alone", () => {
  const { weights } = JSON.parse(readFileSync(join(stage.models, "elastic", "slimvit.json"), "utf8"));
  expect(weights[0].slabs[0].bytes / weights[0].bytes).toBeLessThan(0.35);
});
