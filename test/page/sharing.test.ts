/** Loads of one folder in Node: what they share, and what each has for itself. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, test, vi } from "vitest";
import { type LoadOptions, type Progress, SlimViT, type WeightsStore } from "../../src/index.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { randomModel } from "../helpers.ts";
import { listen } from "../servers.ts";

let folder: string;
let origin: string;
let asked: string[] = [];
const loaded: SlimViT[] = [];
const server = createServer((request, response) => {
  const name = request.url!.split("/").at(-1)!;
  asked.push(name);
  response.end(readFileSync(join(folder, name)));
});

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-sharing-"));
  const arch = { imageSize: [8, 8] as [number, number], patchSize: 4, embedDim: 8, headDim: 4, layerNormEps: 1e-6 };
  const blocks = [{ headDims: [4], mlpHidden: 8, keepIdx: [0, 1, 2] }];
  const { manifest, tensors } = randomModel({ ...arch, prefixTokens: 1, blocks }, 3);
  writeModelFolder(folder, manifest, tensors, ["f32", "f16"]);
  origin = await listen(server);
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
  rmSync(folder, { recursive: true });
});
afterEach(() => {
  for (const vit of loaded.splice(0)) vit.dispose();
  vi.unstubAllGlobals();
  asked = [];
});

async function load(options: LoadOptions = {}): Promise<SlimViT> {
  const vit = await SlimViT.load(`${origin}/`, { engine: "reference", dtype: "f32", cache: false, ...options });
  loaded.push(vit);
  return vit;
}

const picture = () => ({ data: new Uint8Array(64 * 4).fill(99), width: 8, height: 8 });
const ONCE = ["slimvit.json", "model.f32.safetensors"];

test("loads with the same options read the files once, and the first that leaves takes nothing from the other", async () => {
  const [first, second] = await Promise.all([load(), load()]);
  expect(asked).toEqual(ONCE);
  first.dispose();
  await expect(first.classify(picture())).rejects.toMatchObject({ code: "disposed" });
  expect((await second.classify(picture())).classes).toHaveLength(5);
  expect(asked).toEqual(ONCE);
});

test("the last that leaves ends the model: a later load reads the files again", async () => {
  const [first, second] = [await load(), await load()];
  first.dispose();
  first.dispose(); // counts once
  await load();
  expect(asked).toEqual(ONCE);
  for (const vit of loaded.splice(0)) vit.dispose();
  second.dispose();
  await load();
  expect(asked).toEqual([...ONCE, ...ONCE]);
});

test("another dtype is another model", async () => {
  const [f32, f16] = [await load(), await load({ dtype: "f16" })];
  expect([f32, f16].map(({ info }) => info.dtype)).toEqual(["f32", "f16"]);
});

test("who joins later hears how far the download is", async () => {
  await load();
  const seen: Progress[] = [];
  await load({ onProgress: (progress) => seen.push(progress) });
  const bytes = readFileSync(join(folder, "model.f32.safetensors")).length;
  expect(seen).toEqual([expect.objectContaining({ loadedBytes: bytes, totalBytes: bytes })]);
});

const emptyStore = () => {
  const kept = new Map<string, Uint8Array>();
  const cache: WeightsStore = {
    get: async (sha256) => kept.get(sha256),
    put: async (sha256, bytes) => void kept.set(sha256, bytes),
  };
  return { kept, cache };
};

test("apps with stores of their own share nothing: each store is filled", async () => {
  const [one, other] = [emptyStore(), emptyStore()];
  await load({ cache: one.cache });
  await load({ cache: other.cache });
  expect([one.kept.size, other.kept.size]).toEqual([1, 1]);
  expect(asked).toEqual([...ONCE, ...ONCE]);
});

test("a folder on a disk fills no store, as it needs no download", async () => {
  const { kept, cache } = emptyStore();
  const vit = await SlimViT.load(folder, { engine: "reference", dtype: "f32", cache });
  loaded.push(vit);
  expect(kept.size).toBe(0);
});

test("only with cache: true is the browser's cache opened", async () => {
  const open = vi.fn(async () => {
    throw new Error("no cache here");
  });
  vi.stubGlobal("caches", { open });
  await load({ cache: emptyStore().cache });
  await load({ cache: false });
  expect(open).not.toHaveBeenCalled();
  const { info } = await load({ cache: true });
  expect(open).toHaveBeenCalledOnce();
  expect(info.notes).toEqual([expect.stringMatching(/not kept for the next visit.*no cache here/)]);
});

test("a frame's total time covers its preparation and its inference", async () => {
  const vit = await load();
  const before = performance.now();
  const { preprocess, inference, total } = (await vit.classify(picture())).latencyMs;
  expect(total).toBeGreaterThanOrEqual(preprocess + inference);
  expect(total).toBeGreaterThan(inference);
  expect(total).toBeLessThanOrEqual(performance.now() - before);
});
