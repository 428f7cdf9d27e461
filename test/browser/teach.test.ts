/** Teaching in a real page: what comes back is a model like any other, and its folder gives the same scores in Node. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { keepWorkers, openStage, type Stage } from "./page.ts";
import { LONG_MS, longestTask } from "./tasks.ts";

const TRIES = 5;

interface Scores {
  scores: number[];
  labels: string[];
  unknown: boolean;
}

let stage: Stage;
let folder: string;
beforeAll(async () => {
  stage = await openStage();
  await keepWorkers(stage.page);
  await stage.page.evaluate(() => {
    /** Pictures of a kind: noise of its own around a colour. */
    const pictureOf = (kind: number, seed: number) => {
      const data = new Uint8ClampedArray(40 * 40 * 4);
      for (let i = 0; i < data.length; i++) {
        const colour = i % 4 === kind % 3 ? 200 - 40 * Math.floor(kind / 3) : 60;
        data[i] = i % 4 === 3 ? 255 : colour + ((i * (seed + 3) * 2654435761) % 97) / 2;
      }
      return { data, width: 40, height: 40 };
    };
    const some = (kind: number, count: number, from = 0) =>
      Array.from({ length: count }, (_, i) => pictureOf(kind, from + i));
    const seen = async (model: { classify: typeof load }, kinds: number[]) => {
      const answers = [];
      for (const kind of kinds) {
        const { classes, unknown } = await model.classify(pictureOf(kind, 77) as object);
        const inOrder = [...classes].sort((a, b) => a.index - b.index);
        answers.push({
          scores: inOrder.map(({ score }: { score: number }) => score),
          labels: inOrder.map(({ label }: { label: string }) => label),
          unknown,
        });
      }
      return answers;
    };
    Object.assign(globalThis, { pictureOf, some, seen });
  });
});
afterAll(() => stage?.close());
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-taught-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

describe.each(["f32", "f16", "int8"])("in %s", (dtype) => {
  test("a model taught and saved in the page gives the same scores in Node, and in a page, and goes on learning", async () => {
    const out = await stage.page.evaluate(async (dtype) => {
      const vit = await load({ engine: "simd", dtype });
      const mine = await vit.teach({ red: some(0, 6), green: some(1, 6), blue: some(2, 5) });
      const before = await seen(mine, [0, 1, 2, 5]);
      const files: File[] = await mine.save({ name: "colours" });
      const again = await SlimViT.load(files);
      const inPage = await seen(again, [0, 1, 2, 5]);
      await again.teach({ red: some(0, 2, 50), dark: some(3, 4) });
      const info = again.info;
      const result = { before, inPage, labels: info.labels, pictures: info.taught.pictures, taught: mine.info.taught };
      const bytes = await Promise.all(
        files.map(async (file) => [file.name, [...new Uint8Array(await file.arrayBuffer())]]),
      );
      for (const model of [vit, mine, again]) model.dispose();
      return { ...result, bytes: bytes as [string, number[]][] };
    }, dtype);
    expect(out.before.map(({ scores, labels }) => labels[scores.indexOf(Math.max(...scores))])).toEqual(
      expect.arrayContaining(["red", "green", "blue"]),
    );
    expect(out.taught).toMatchObject({ pictures: [6, 6, 5], n: 17, folds: 5 });
    expect(out.labels.map(({ label }: { label: string }) => label)).toEqual(["red", "green", "blue", "dark"]);
    expect(out.pictures).toEqual([8, 6, 5, 4]);

    for (const [name, bytes] of out.bytes) writeFileSync(join(folder, name), Uint8Array.from(bytes));
    const { SlimViT: inNode } = await import("../../dist/index.js");
    const loaded = await inNode.load(folder, { engine: "simd" });
    expect(loaded.info).toMatchObject({ name: "colours", dtype, taught: { accuracy: out.taught.accuracy, n: 17 } });
    for (const [i, kind] of [0, 1, 2, 5].entries()) {
      const { classes, unknown } = await loaded.classify(pictureInNode(kind, 77));
      const scores = [...classes].sort((a, b) => a.index - b.index).map(({ score }) => score);
      for (const other of [out.before[i], out.inPage[i]]) {
        expect(unknown).toBe(other.unknown);
        scores.forEach((score, k) => void expect(Math.abs(score - other.scores[k])).toBeLessThan(1e-5));
      }
    }
    loaded.dispose();
  });
});

/** The page's `pictureOf`. */
function pictureInNode(kind: number, seed: number) {
  const data = new Uint8ClampedArray(40 * 40 * 4);
  for (let i = 0; i < data.length; i++) {
    const colour = i % 4 === kind % 3 ? 200 - 40 * Math.floor(kind / 3) : 60;
    data[i] = i % 4 === 3 ? 255 : colour + ((i * (seed + 3) * 2654435761) % 97) / 2;
  }
  return { data, width: 40, height: 40 };
}

interface Step {
  step: string;
  done: number;
  total: number;
}

/** Teaches and classifies at once. @returns the page's longest task, the steps, and how many pictures were classified during the fit */
async function teachBusily(): Promise<{ longest: number; steps: Step[]; meanwhile: number }> {
  let seen: { steps: Step[]; meanwhile: number };
  await stage.page.evaluate(async () =>
    Object.assign(globalThis, { vit: await load({ engine: "simd", dtype: "f32" }) }),
  );
  const longest = await longestTask(stage, async () => {
    seen = await stage.page.evaluate(async () => {
      const { vit } = globalThis as unknown as { vit: Awaited<ReturnType<typeof load>> };
      const steps: Step[] = [];
      let meanwhile = 0;
      const blank = picture();
      const kinds = { a: some(0, 60), b: some(1, 60), c: some(4, 60) };
      const teaching = vit.teach(kinds, { onProgress: (step: Step) => steps.push(step) });
      let isDone = false;
      void teaching.then(() => (isDone = true));
      while (!isDone) {
        await vit.classify(blank);
        if (steps.at(-1)?.step === "fit" && !isDone) meanwhile++;
      }
      (await teaching).dispose();
      vit.dispose();
      return { steps, meanwhile };
    });
  });
  return { longest, ...seen! };
}

test("teaching leaves the page answerable, and pictures are classified meanwhile", async () => {
  // What others do on this machine can only make tasks longer, and the moments between them fewer.
  const tries: Awaited<ReturnType<typeof teachBusily>>[] = [];
  do tries.push(await teachBusily());
  while ((tries.at(-1)!.longest >= LONG_MS || !tries.at(-1)!.meanwhile) && tries.length < TRIES);
  const { longest, meanwhile } = tries.at(-1)!;
  expect(longest).toBeLessThan(LONG_MS);
  expect(meanwhile).toBeGreaterThan(0);
  for (const { steps } of tries) {
    expect(steps.filter(({ step }) => step === "embed").map(({ done }) => done)).toEqual([...Array(181).keys()]);
    expect(steps.at(-1)).toEqual({ step: "fit", done: 1, total: 1 });
  }
});

test("a taught model shares its parent's worker, outlives it, and outlives the worker", async () => {
  const out = await stage.page.evaluate(async () => {
    const before = workers.length;
    const vit = await load({ engine: "simd", dtype: "f32" });
    const own = (await vit.classify(picture())).classes.map(({ label }: { label: string }) => label);
    const mine = await vit.teach({ red: some(0, 3), green: some(1, 3) });
    const one = await seen(mine, [0]);
    const still = (await vit.classify(picture())).classes.map(({ label }: { label: string }) => label);
    const started = workers.length - before;
    vit.dispose();
    const two = await seen(mine, [0]);
    const flying = failure(mine.classify(pictureOf(0, 1)));
    workers.at(-1)!.terminate();
    const lost = await flying;
    const three = await seen(mine, [0]);
    const all = [];
    for await (const { result } of mine.classifyAll(some(1, 2))) all.push(result.classes.length);
    const vector = await mine.embed(picture());
    await mine.forget("red").catch((error: Error) => all.push(error.message));
    await mine.teach({ blue: some(2, 3) });
    await mine.forget(["red"]);
    const left = mine.info.labels.map(({ label }: { label: string }) => label);
    mine.dispose();
    const disposed = await failure(mine.teach({ more: some(1, 2) }));
    return { own, still, started, one, two, lost, three, all, length: vector.length, left, disposed };
  });
  expect(out.still).toEqual(out.own);
  expect(out.started).toBe(1);
  expect([out.two, out.three]).toEqual([out.one, out.one]);
  expect(out.lost.code).toBe("worker-lost");
  expect(out.all).toEqual([2, 2, expect.stringMatching(/"green" alone/)]);
  expect(out.length).toBe(16);
  expect(out.left).toEqual(["green", "blue"]);
  expect(out.disposed.code).toBe("disposed");
});

test("an abort ends teaching at either step, and what was known stays", async () => {
  const out = await stage.page.evaluate(async () => {
    const vit = await load({ engine: "simd", dtype: "f32" });
    const mine = await vit.teach({ red: some(0, 3), green: some(1, 3) });
    const stopAt = async (step: string) => {
      const controller = new AbortController();
      const onProgress = (p: { step: string; done: number }) => p.step === step && p.done > 0 && controller.abort();
      return (await failure(mine.teach({ blue: some(2, 40) }, { signal: controller.signal, onProgress }))).code;
    };
    const codes = [await stopAt("embed"), await stopAt("fit")];
    const labels = mine.info.labels.length;
    const learned = await Promise.all([mine.teach({ blue: some(2, 3) }), mine.teach({ dark: some(3, 3) })]);
    const both = mine.info.labels.map(({ label }: { label: string }) => label);
    mine.dispose();
    vit.dispose();
    return { codes, labels, both, same: learned.every((model) => model === mine) };
  });
  expect(out).toEqual({ codes: ["aborted", "aborted"], labels: 2, both: ["red", "green", "blue", "dark"], same: true });
});

test("what cannot be taught is refused in a sentence that names it", async () => {
  const out = await stage.page.evaluate(async () => {
    const vit = await load({ engine: "simd", dtype: "f32" });
    const messages: Record<string, { code: string; message: string }> = {
      one: await failure(vit.teach({ red: some(0, 3) })),
      few: await failure(vit.teach({ red: some(0, 3), green: some(1, 1) })),
      text: await failure(vit.teach({ red: "red.png" })),
      bad: await failure(vit.teach({ red: some(0, 2), green: [pictureOf(1, 1), new Blob(["no picture"])] })),
      option: await failure(vit.teach({ red: some(0, 2), green: some(1, 2) }, { falseRejecton: 0.1 })),
      save: await failure(vit.save()),
      forget: await failure(vit.forget("red")),
    };
    const mine = await vit.teach({ red: some(0, 3), green: some(1, 3) });
    messages.missing = await failure(mine.forget("blue"));
    const bare = await SlimViT.load(await mine.save({ embeddings: false }));
    messages.bare = await failure(bare.teach({ blue: some(2, 3) }));
    const info = { name: bare.info.name, accuracy: bare.info.taught.accuracy };
    for (const model of [vit, mine, bare]) model.dispose();
    return { messages, info };
  });
  const { one, few, text, bad, option, save, forget, missing, bare } = out.messages;
  expect(one.message).toMatch(/"red" alone/);
  expect(few.message).toMatch(/"green" has 1 picture; expected at least 2/);
  expect(text.message).toMatch(/"red" is red.png; expected a list of pictures/);
  expect(bad).toMatchObject({ code: "bad-input", message: expect.stringMatching(/^Class "green", picture 2 of 2: /) });
  expect(option.message).toMatch(/did you mean falseRejection/);
  expect([save.code, forget.code, bare.code]).toEqual(["unsupported", "unsupported", "unsupported"]);
  expect(missing.message).toMatch(/forget names "blue"; the classes are "red", "green"/);
  expect(bare.message).toMatch(/saved without the embeddings/);
  expect(out.info).toEqual({ name: "tiny-slim-taught", accuracy: expect.any(Number) });
});

/** The globals that `beforeAll` puts into the page. */
declare global {
  var pictureOf: (kind: number, seed: number) => object;
  var some: (kind: number, count: number, from?: number) => object[];
  // biome-ignore lint/suspicious/noExplicitAny: the page's own, built copy of the package
  var seen: (model: any, kinds: number[]) => Promise<Scores[]>;
}
