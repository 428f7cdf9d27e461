/** Loading a model in a page: where it comes from, what is refused, how its worker starts. */
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Manifest } from "../../src/format/model.ts";
import { openStage, type Stage } from "./page.ts";

let stage: Stage;
beforeAll(async () => {
  stage = await openStage();
});
afterAll(() => stage.close());

/** The tiny model in another folder, its manifest after `change` has had it. */
function copyTiny(name: string, change: (manifest: Manifest) => void = () => {}): string {
  const folder = join(stage.models, name);
  cpSync(join(stage.models, "tiny"), folder, { recursive: true });
  const path = join(folder, "slimvit.json");
  const manifest: Manifest = JSON.parse(readFileSync(path, "utf8"));
  change(manifest);
  writeFileSync(path, JSON.stringify(manifest));
  return folder;
}

test("reports exact bytes, and the second visit comes from the cache", async () => {
  const { first, second, info } = await stage.page.evaluate(async () => {
    const visit = async () => {
      const seen: { loadedBytes: number; totalBytes: number; cached: boolean }[] = [];
      const vit = await load({ dtype: "f16", onProgress: (p: (typeof seen)[0]) => seen.push(p) });
      const { info } = vit;
      vit.dispose();
      return { last: seen.at(-1), info };
    };
    const { last: first, info } = await visit();
    const { last: second } = await visit();
    return { first, second, info };
  });
  const { size } = { size: readFileSync(join(stage.models, "tiny", "model.f16.safetensors")).length };
  expect(first).toMatchObject({ loadedBytes: size, totalBytes: size, cached: false });
  expect(second).toMatchObject({ loadedBytes: size, totalBytes: size, cached: true });
  expect(info).toMatchObject({ name: "tiny-slim", embedDim: 16, dtype: "f16", engine: "onnx-wasm", sizeBytes: size });
  expect(info.blocks[0].headDims).toEqual([8, 3]);
});

test("keeps weights in a store of one's own, and does not trust what it returns", async () => {
  const out = await stage.page.evaluate(async () => {
    const kept = new Map<string, Uint8Array>();
    const store = {
      get: async (sha256: string) => kept.get(sha256),
      put: async (sha256: string, bytes: Uint8Array) => void kept.set(sha256, bytes),
    };
    const visit = async () => {
      let cached = false;
      const vit = await load({ cache: store, onProgress: (p: { cached: boolean }) => (cached = p.cached) });
      const { score } = (await vit.classify(picture())).classes[0];
      vit.dispose();
      return { cached, score };
    };
    const visits = [await visit(), await visit()];
    for (const bytes of kept.values()) bytes[bytes.length - 9] ^= 1;
    visits.push(await visit(), await visit());
    const failing = { get: () => Promise.reject(new Error("gone")), put: () => Promise.reject(new Error("full")) };
    const vit = await load({ cache: failing });
    const { notes } = vit.info;
    vit.dispose();
    return { keys: [...kept.keys()], visits, notes };
  });
  expect(out.keys).toHaveLength(1);
  expect(out.visits.map((visit) => visit.cached)).toEqual([false, true, false, true]);
  expect(new Set(out.visits.map((visit) => visit.score)).size).toBe(1);
  expect(out.notes).toEqual([expect.stringMatching(/not kept .*full/)]);
});

test("takes files that the user picked", async () => {
  const files = ["slimvit.json", "model.f32.safetensors"].map((name) => ({
    name,
    base64: readFileSync(join(stage.models, "tiny", name)).toString("base64"),
  }));
  const label = await stage.page.evaluate(async (files) => {
    const blobs = await Promise.all(
      files.map(async ({ name, base64 }) => new File([await (await fetch(`data:;base64,${base64}`)).blob()], name)),
    );
    const vit = await load({ dtype: "f32" }, blobs);
    const { classes } = await vit.classify(picture());
    vit.dispose();
    return classes[0].label;
  }, files);
  expect(label).toMatch(/^a /);
});

test("a flipped bit in the weights is an integrity error", async () => {
  const path = join(copyTiny("flipped"), "model.f32.safetensors");
  const bytes = readFileSync(path);
  bytes[bytes.length - 100] ^= 4;
  writeFileSync(path, bytes);
  const error = await stage.page.evaluate(() => failure(load({ dtype: "f32", cache: false }, "/models/flipped/")));
  expect(error).toMatchObject({ code: "integrity", ours: true });
  expect(error.message).toMatch(/flipped\/model\.f32\.safetensors: its sha256/);
});

test("an engine that gives other logits than the model's known input is refused", async () => {
  copyTiny("lying", (manifest) => {
    for (const known of Object.values(manifest.variants[0].selfTest!)) known.logits![0] += 1;
  });
  const error = await stage.page.evaluate(() => failure(load({}, "/models/lying/")));
  expect(error).toMatchObject({ code: "unsupported", ours: true });
  expect(error.message).toMatch(/known input/);
});

test("an error brings its cause along from the worker", async () => {
  const cause = await stage.page.evaluate(() =>
    load({}, "http://127.0.0.1:1/").then(
      () => undefined,
      ({ code, cause }) => ({ code, isError: cause instanceof Error, name: cause.name, message: cause.message }),
    ),
  );
  expect(cause).toEqual({ code: "network", isError: true, name: "TypeError", message: "Failed to fetch" });
});

test.each([
  ["a folder without slimvit.json", "/models/none/", {}, "network", /none\/slimvit\.json: the server answered 404/],
  ["weights the folder has not", "/models/f32only/", { dtype: "f16" }, "bad-option", /has no f16 weights/],
  ["an engine that is none", "/models/tiny/", { engine: "quantum" }, "bad-option", /"quantum"/],
  ["an engine that is not installed", "/models/tiny/", { engineUrls: {} }, "unsupported", /onnxruntime-web/],
  ["a Hugging Face name that is none", "hf:nobody", {}, "bad-option", /hf:owner\/name/],
  ["a worker that is not there", "/models/tiny/", { workerUrl: "/dist/nowhere.js" }, "unsupported", /nowhere\.js/],
])("%s: one sentence and a code", async (_, source, options, code, message) => {
  copyTiny("f32only", (manifest) => {
    manifest.weights = manifest.weights.filter((file) => file.dtype === "f32");
  });
  const error = await stage.page.evaluate(([source, options]) => failure(load(options as object, source)), [
    source,
    options,
  ] as const);
  expect(error).toMatchObject({ code, ours: true });
  expect(error.message).toMatch(message);
});

test("an abort while loading rejects with aborted", async () => {
  const error = await stage.page.evaluate(() => {
    const controller = new AbortController();
    const loading = failure(load({ cache: false, signal: controller.signal }));
    setTimeout(() => controller.abort(), 5);
    return loading;
  });
  expect(error).toMatchObject({ code: "aborted", ours: true });
});

test("a page that may only load workers from blobs still gets one", async () => {
  const score = await stage.page.evaluate(async () => {
    const Original = Worker;
    globalThis.Worker = class extends Original {
      constructor(url: string | URL, options?: WorkerOptions) {
        if (!String(url).startsWith("blob:")) throw new DOMException("refused", "SecurityError");
        super(url, options);
      }
    };
    const vit = await load();
    const { classes } = await vit.classify(picture());
    vit.dispose();
    globalThis.Worker = Original;
    return classes[0].score;
  });
  expect(score).toBeGreaterThan(0);
});
