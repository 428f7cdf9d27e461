/** Pictures that wait together go to an engine with batches in one submission. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import type { OpenEngine } from "../../src/engines/engine.ts";
import { type ClassifyAllOptions, SlimViT } from "../../src/index.ts";
import { forward } from "../../src/reference/forward.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { writeElastic } from "../elasticFolder.ts";
import { randomModel } from "../helpers.ts";

const sizesOfBatches: number[] = [];
let prepared = 0;
/** Engines that were opened and not disposed of. */
let openEngines = 0;
/** What a batch waits for before it is computed. */
let ready: () => boolean = () => true;

/** The reference's numbers, three pictures at once. */
const openBatching: OpenEngine = async (model) => {
  openEngines++;
  return {
    name: "reference",
    threads: 1,
    batchSize: 3,
    async run(pixels) {
      sizesOfBatches.push(1);
      return forward(model, pixels);
    },
    async runBatch(pictures) {
      sizesOfBatches.push(pictures.length);
      await vi.waitUntil(() => ready());
      return pictures.map((pixels) => forward(model, pixels));
    },
    dispose: () => void openEngines--,
  };
};

vi.mock("../../src/engines/registry.ts", async (original) => ({
  ...(await original<typeof import("../../src/engines/registry.ts")>()),
  loadEngine: async () => openBatching,
}));

vi.mock("../../src/image/preprocess.ts", async (original) => {
  const real = await original<typeof import("../../src/image/preprocess.ts")>();
  return {
    ...real,
    preprocessWith(...given: Parameters<typeof real.preprocessWith>) {
      prepared++;
      return real.preprocessWith(...given);
    },
  };
});

const folder = mkdtempSync(join(tmpdir(), "slimvit-batches-"));
const block = { headDims: [4], mlpHidden: 8, keepIdx: [0, 1, 2, 3, 4] };
const sizes = { imageSize: [8, 8] as [number, number], patchSize: 4, embedDim: 8, headDim: 4, layerNormEps: 1e-6 };
beforeAll(() => {
  const { manifest, tensors } = randomModel({ ...sizes, prefixTokens: 1, blocks: [block] }, 3);
  writeModelFolder(folder, manifest, tensors, ["f32"], {}, true);
});
afterAll(() => rmSync(folder, { recursive: true }));

const picture = (seed: number) => ({
  data: new Uint8Array(8 * 8 * 4).map((_, i) => (i * seed * 37) % 256),
  width: 8,
  height: 8,
});

test("each picture's answer is its own, and a bad one costs the others nothing", async () => {
  const vit = await SlimViT.load(folder, { engine: "reference" });
  expect(vit.info.batchSize).toBe(3);
  const pictures = [1, 2, 3, 4, 5, 6].map(picture);
  const alone = [];
  for (const one of pictures) alone.push((await vit.classify(one)).classes);
  sizesOfBatches.length = 0;
  const together = (await vit.classify(pictures)).map(({ classes }) => classes);
  expect(together).toEqual(alone);
  expect(Math.max(...sizesOfBatches)).toBe(3);
  expect(sizesOfBatches.reduce((a, b) => a + b)).toBe(6);

  const bad = { data: new Uint8Array(7), width: 8, height: 8 };
  const seen = [];
  for await (const { index, result, error } of vit.classifyAll([pictures[0], bad, pictures[2]]))
    seen.push([index, result?.classes ?? error?.code]);
  expect(seen).toEqual([
    [0, alone[0]],
    [1, "bad-input"],
    [2, alone[2]],
  ]);
  vit.dispose();
});

test("classifyAll keeps as many on their way as fill the engine's batches, unless it is told another number", async () => {
  const vit = await SlimViT.load(folder, { engine: "reference" });
  const largestOf = async (options: ClassifyAllOptions) => {
    sizesOfBatches.length = 0;
    for await (const { error } of vit.classifyAll([1, 2, 3, 4, 5, 6].map(picture), options))
      expect(error).toBeUndefined();
    return Math.max(...sizesOfBatches);
  };
  expect(await largestOf({})).toBe(3);
  expect(await largestOf({ concurrency: 1 })).toBe(1);
  vit.dispose();
});

test("the next batch is prepared while one is computed", async () => {
  const vit = await SlimViT.load(folder, { engine: "reference" });
  const pictures = [1, 2, 3, 4, 5, 6].map(picture);
  [prepared, sizesOfBatches.length] = [0, 0];
  const computedWith: number[] = [];
  ready = () => {
    if (prepared < Math.min(6, sizesOfBatches.reduce((a, b) => a + b) + 3)) return false;
    computedWith.push(prepared);
    return true;
  };
  const classes = (await vit.classify(pictures)).map(({ classes }) => classes[0].index);
  ready = () => true;
  expect(computedWith.at(-1)).toBe(6);
  expect(computedWith[0]).toBeGreaterThan(sizesOfBatches[0]);
  expect(classes).toHaveLength(6);
  vit.dispose();
});

test("a call with profile or explain runs alone", async () => {
  const vit = await SlimViT.load(folder, { engine: "reference" });
  sizesOfBatches.length = 0;
  await Promise.all([vit.classify(picture(1)), vit.classify(picture(2), { explain: true }), vit.classify(picture(3))]);
  expect(sizesOfBatches).toEqual([1, 1, 1]);
  vit.dispose();
});

test("an abort takes one picture out of its batch", async () => {
  const vit = await SlimViT.load(folder, { engine: "reference" });
  const controller = new AbortController();
  const calls = [
    vit.classify(picture(1)),
    vit.classify(picture(2), { signal: controller.signal }),
    vit.classify(picture(3)),
  ];
  controller.abort();
  const codes = await Promise.allSettled(calls);
  expect(codes.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
  vit.dispose();
});

test("of pictures that are computed together each has its share of the time", async () => {
  const vit = await SlimViT.load(folder, { engine: "reference" });
  sizesOfBatches.length = 0;
  const start = performance.now();
  ready = () => performance.now() > start + 100; // most of the time is the engine's
  const answers = await Promise.all([1, 2, 3].map((seed) => vit.classify(picture(seed))));
  const elapsed = performance.now() - start;
  ready = () => true;
  expect(sizesOfBatches).toEqual([3]);
  const inference = answers.map(({ latencyMs }) => latencyMs.inference);
  expect(inference).toEqual([inference[0], inference[0], inference[0]]);
  expect(inference.reduce((a, b) => a + b)).toBeLessThanOrEqual(elapsed);
  vit.dispose();
});

test("a call that is given up while it waits is never computed", async () => {
  const vit = await SlimViT.load(folder, { engine: "reference" });
  const controller = new AbortController();
  [prepared, sizesOfBatches.length] = [0, 0];
  let isLetGo = false;
  ready = () => isLetGo;
  // Three are computed and three are prepared when the seventh, which waits behind them, is given up.
  const calls = [1, 2, 3, 4, 5, 6].map((seed) => vit.classify(picture(seed)));
  const given = vit.classify(picture(7), { signal: controller.signal });
  const refused = expect(given).rejects.toMatchObject({ code: "aborted" });
  await vi.waitUntil(() => prepared === 6);
  controller.abort();
  await refused;
  isLetGo = true;
  await Promise.all(calls);
  await vit.classify(picture(8));
  ready = () => true;
  expect(prepared).toBe(7);
  expect(sizesOfBatches.reduce((a, b) => a + b)).toBe(7);
  vit.dispose();
});

test("pictures for two variants are never computed together", async () => {
  const elastic = join(folder, "elastic");
  await writeElastic(elastic);
  const options = { engine: "reference", variant: "large" } as const;
  const [small, large] = await Promise.all([SlimViT.load(elastic, options), SlimViT.load(elastic, options)]);
  await small.use("small");
  const pictures = [1, 2, 3].map(picture);
  const alone = new Map<SlimViT, unknown[]>();
  for (const vit of [small, large])
    alone.set(
      vit,
      (await vit.classify(pictures)).map(({ classes }) => classes),
    );
  const calls = pictures.flatMap((one, k) => [small, large].map((vit) => ({ vit, k, answer: vit.classify(one) })));
  for (const { vit, k, answer } of calls) {
    const { variant, classes } = await answer;
    expect(variant).toBe(vit === small ? "small" : "large");
    expect(classes).toEqual(alone.get(vit)![k]);
  }
  small.dispose();
  large.dispose();
});

test("the engine of a variant that another one has replaced is closed", async () => {
  const elastic = join(folder, "replaced");
  await writeElastic(elastic);
  openEngines = 0;
  const vit = await SlimViT.load(elastic, { engine: "reference", variant: "large" });
  for (const name of ["small", "middle", "large"]) {
    await vit.use(name);
    expect((await vit.classify(picture(1))).variant).toBe(name);
    expect(openEngines).toBe(1);
  }
  await expect(vit.use("none")).rejects.toMatchObject({ code: "bad-option" });
  expect(openEngines).toBe(1);
  vit.dispose();
  await vi.waitUntil(() => openEngines === 0);
});
