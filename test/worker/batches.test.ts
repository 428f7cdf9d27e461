/** Pictures that wait together go to an engine with batches in one submission. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import type { OpenEngine } from "../../src/engines/engine.ts";
import { SlimViT } from "../../src/index.ts";
import { forward } from "../../src/reference/forward.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { randomModel } from "../helpers.ts";

const sizesOfBatches: number[] = [];
let prepared = 0;
/** What a batch waits for before it is computed. */
let ready: () => boolean = () => true;

/** The reference's numbers, three pictures at once. */
const openBatching: OpenEngine = async (model) => ({
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
  dispose() {},
});

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
