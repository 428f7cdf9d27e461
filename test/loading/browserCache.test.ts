/** What a browser's cache holds of a model after a visit, and what counts on the next one: the cache is one in memory here. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { loadModel } from "../../src/loading/loadModel.ts";
import type { Progress } from "../../src/protocol.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { randomModel } from "../helpers.ts";
import { listen } from "../servers.ts";

let folder: string;
let server: Server;
let url: string;
let asked: string[] = [];
/** what the server answers in place of a file */
let status: number | undefined;
let damaged = false;
const entries = new Map<string, Uint8Array>();

const cache = {
  match: async (key: string) => entries.get(key) && new Response(entries.get(key) as Uint8Array<ArrayBuffer>),
  put: async (key: string, response: Response) => void entries.set(key, new Uint8Array(await response.arrayBuffer())),
  delete: async (key: string) => entries.delete(key),
};

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-browser-cache-"));
  vi.stubGlobal("caches", { open: async () => cache });
  entries.clear();
  [asked, status, damaged] = [[], undefined, false];
  write(1, 2);
  server = createServer((request, response) => {
    const name = request.url!.slice(1);
    asked.push(name);
    if (status) return void response.writeHead(status).end();
    const file = readFileSync(join(folder, name));
    if (damaged && name !== "slimvit.json") file[file.length - 1] ^= 1;
    response.end(file);
  });
  url = `${await listen(server)}/`;
});
afterEach(() => {
  server.closeAllConnections();
  server.close();
  vi.unstubAllGlobals();
  rmSync(folder, { recursive: true });
});

/** A folder whose f32 and f16 weights come from these seeds. */
function write(f32: number, f16: number): void {
  const arch = { imageSize: [8, 8] as [number, number], patchSize: 4, embedDim: 8, headDim: 4, layerNormEps: 1e-6 };
  const blocks = [{ headDims: [4], mlpHidden: 8, keepIdx: [0, 1, 2] }];
  const [one, other] = [f32, f16].map((seed) => randomModel({ ...arch, prefixTokens: 1, blocks }, seed));
  const tensors = (dtype: string) => (dtype === "f32" ? one : other).tensors;
  writeModelFolder(folder, one.manifest, tensors, ["f32", "f16"], {}, true);
}

const [MANIFEST, F32, F16] = ["slimvit.json", "model.f32.safetensors", "model.f16.safetensors"];

async function visit(dtype: "f32" | "f16" = "f32", isCached = true) {
  asked = [];
  const seen: Progress[] = [];
  const request = { source: { url }, engine: "reference", dtype, cache: isCached } as const;
  const { model } = await loadModel(request, { onProgress: (progress) => seen.push(progress) });
  return { bias: [...(model.tensors.get("head.bias")!.data as Float32Array)], cached: seen.at(-1)!.cached };
}

/** The weights that the cache has, by the manifest that lies in the folder or one of before. */
function keptWeights(text = readFileSync(join(folder, MANIFEST), "utf8")): string[] {
  const { weights } = JSON.parse(text) as { weights: { dtype: string; sha256: string }[] };
  return weights.filter(({ sha256 }) => [...entries.keys()].some((key) => key.includes(sha256))).map((w) => w.dtype);
}

test("a second visit asks for the manifest alone", async () => {
  const first = await visit();
  expect([first.cached, asked]).toEqual([false, [MANIFEST, F32]]);
  const second = await visit();
  expect([second.cached, asked]).toEqual([true, [MANIFEST]]);
  expect(second.bias).toEqual(first.bias);
});

test("a visit without the cache reads and keeps nothing", async () => {
  await visit("f32", false);
  expect(entries.size).toBe(0);
  await visit();
  await visit("f32", false);
  expect(asked).toEqual([MANIFEST, F32]);
});

test("without a network the model of the last visit is loaded", async () => {
  const { bias } = await visit();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  expect(await visit()).toEqual({ bias, cached: true });
});

test("a server that answers without the model is believed: what is kept does not stand in for it", async () => {
  await visit();
  status = 404;
  await expect(visit()).rejects.toMatchObject({ code: "network" });
});

test("a new version takes the old one's place: weights that only the old one names are deleted", async () => {
  await visit("f16");
  const before = await visit("f32");
  const old = readFileSync(join(folder, MANIFEST), "utf8");
  expect(keptWeights(old)).toEqual(["f32", "f16"]);
  write(3, 2); // the f16 weights are the same
  const after = await visit("f32");
  expect(asked).toEqual([MANIFEST, F32]);
  expect(after.bias).not.toEqual(before.bias);
  expect(keptWeights(old)).toEqual(["f16"]);
  expect(keptWeights()).toEqual(["f32", "f16"]);
  await visit("f16");
  expect(asked).toEqual([MANIFEST]);
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  expect((await visit("f32")).bias).toEqual(after.bias);
});

test("a new version whose weights are damaged leaves the old one in the cache", async () => {
  const { bias } = await visit();
  write(3, 4);
  damaged = true;
  await expect(visit()).rejects.toMatchObject({ code: "integrity" });
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  expect(await visit()).toEqual({ bias, cached: true });
});

test("the weights of one dtype do not answer for those of another", async () => {
  await visit("f32");
  await visit("f16");
  expect(asked).toEqual([MANIFEST, F16]);
});
