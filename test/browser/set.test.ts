/** SlimViT.load of a set: which members are downloaded, measured and kept. Budgets are out of any device's reach, both ways. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import type { ModelInfo, SetChoice } from "../../src/protocol.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { makeSet } from "../../tools/models/set.ts";
import { randomModel } from "../helpers.ts";
import { openStage, type Stage } from "./page.ts";

const SET = "/models/sizes/set.json";
const NAMES = ["small", "middle", "large"];

let stage: Stage;
let requested: string[] = [];
beforeAll(async () => {
  stage = await openStage();
  stage.page.context().on("request", (request) => requested.push(new URL(request.url()).pathname));
  const at = (name: string) => join(stage.models, name);
  NAMES.forEach((name, i) => {
    const keepIdx = [...Array(50).keys()];
    const block = { headDims: Array(2 ** i).fill(8), mlpHidden: 32 * 4 ** i, keepIdx };
    const shape = { patchSize: 8, embedDim: 16 * 2 ** i, headDim: 8, layerNormEps: 1e-6, prefixTokens: 1 as const };
    const blocks = Array(1 + 3 * i).fill(block);
    const { manifest, tensors } = randomModel({ ...shape, imageSize: [56, 56], blocks }, i);
    const accuracy = { data: "fruit", split: "test", top1: 0.5 + i / 10, top5: 1, n: 30, engine: "simd", dtype: "f32" };
    writeModelFolder(at(name), { ...manifest, name, metrics: { accuracy: [accuracy] } }, tensors, ["f32", "f16"]);
  });
  makeSet(NAMES.map(at), { out: at("sizes") });
});
afterAll(() => stage?.close());
beforeEach(async () => {
  await stage.page.evaluate(() => caches.delete("slimvit"));
  requested = [];
});

/** Loads, classifies, disposes. @returns what `info` says, and what progress was told of */
function visit(options: object, source = SET): Promise<{ info: ModelInfo & { set: SetChoice }; files: string[] }> {
  return stage.page.evaluate(
    async ({ options, source }) => {
      const files = new Set<string>();
      const onProgress = ({ file }: { file: string }) => files.add(file);
      const vit = await SlimViT.load(source, { onProgress, ...options });
      await vit.classify(picture());
      vit.dispose();
      return { info: vit.info, files: [...files] };
    },
    { options, source },
  );
}

const weights = () => requested.filter((path) => path.includes(".safetensors")).map((path) => path.split("/").at(-2));

test("a page that loads no set does not load what sets need", async () => {
  await visit({ engine: "simd" }, "/models/small/");
  expect(requested.filter((path) => /set\.js/.test(path))).toEqual([]);
});

test("without a budget the most accurate is downloaded alone", async () => {
  const { info, files } = await visit({});
  expect(info.set).toMatchObject({ name: "sizes", member: "large", measured: [] });
  expect(info).toMatchObject({ name: "large", engine: "simd" });
  expect(weights()).toEqual(["large"]);
  expect(files).toEqual(["large/model.f16.safetensors"]);
});

test.each([{}, { engine: "simd", dtype: "f32", threads: 2 }, { engine: "onnx-wasm" }, { engine: "reference" }])(
  "a budget that all meet takes the most accurate, measured; one that none meets the fastest, and says so: %o",
  async (options) => {
    const engineUrls = { "onnxruntime-web": "/ort/ort.wasm.bundle.min.mjs" };
    const how = { ...options, ...("engine" in options && options.engine === "onnx-wasm" && { engineUrls }) };
    const most = await visit({ latencyMs: 1e9, ...how });
    expect(weights()).toEqual(["small", "large"]);
    expect(most.info.set).toMatchObject({ member: "large", meets: true, latencyMs: 1e9 });
    expect(most.info.set.measured.map(({ member, when }) => [member, when])).toEqual([
      ["small", "now"],
      ["large", "now"],
    ]);
    for (const { ms } of most.info.set.measured) expect(ms).toBeGreaterThan(0);
    expect(most.info).toMatchObject({ name: "large", engine: "simd", ...options });

    const least = await visit({ latencyMs: 1e-6, ...how });
    expect(least.info.set).toMatchObject({ member: "small", meets: false });
    expect(least.info.set.reason).toMatch(
      /^no member takes at most 0\.000001 ms: the fastest, small takes [\d.]+ ms, measured on an earlier visit$/,
    );
    expect(least.info.name).toBe("small");
  },
);

test("the next visit measures nothing, asks for one member only, and does without a network", async () => {
  const first = await visit({ latencyMs: 1e9 });
  requested = [];
  const second = await visit({ latencyMs: 1e9 });
  expect(second.info.set.measured).toEqual(first.info.set.measured.map((one) => ({ ...one, when: "earlier" })));
  expect(requested.filter((path) => path.startsWith("/models/"))).toEqual([SET, "/models/sizes/large/slimvit.json"]);
  // Nothing listens at that port, as if the page had lost its network.
  const offline = await stage.page.evaluate(async (set) => {
    const nowhere = "http://127.0.0.1:9/";
    const before = await failure(SlimViT.load(`${nowhere}set.json`));
    const cache = await caches.open("slimvit");
    for (const path of ["set.json", "large/slimvit.json"])
      await cache.put(nowhere + path, await fetch(set.replace("set.json", path)));
    const vit = await SlimViT.load(`${nowhere}set.json`);
    vit.dispose();
    return { before, member: vit.info.set.member };
  }, SET);
  expect(offline.before).toMatchObject({ code: "network", ours: true });
  expect(offline.member).toBe("large");
});

test("two loads at once measure once", async () => {
  const members = await stage.page.evaluate(async (set) => {
    const both = await Promise.all([1, 2].map(() => SlimViT.load(set, { latencyMs: 1e9 })));
    for (const vit of both) vit.dispose();
    return both.map(({ info }) => info.set.measured.map((one: { when: string }) => one.when));
  }, SET);
  expect(members.sort()).toEqual([
    ["earlier", "earlier"],
    ["now", "now"],
  ]);
  expect(weights()).toEqual(["small", "large"]);
});

test("an abort while a member is downloaded, and while another load has its turn, ends it", async () => {
  const errors = await stage.page.evaluate(async (set) => {
    const controller = new AbortController();
    const first = SlimViT.load(set, {
      latencyMs: 1e9,
      signal: controller.signal,
      onProgress: ({ file }: { file: string }) => file.startsWith("large/") && controller.abort(),
    });
    const second = SlimViT.load(set, { latencyMs: 1e9, signal: controller.signal });
    return Promise.all([failure(first), failure(second)]);
  }, SET);
  for (const error of errors) expect(error).toMatchObject({ code: "aborted", ours: true });
  expect((await visit({ latencyMs: 1e9 })).info.set.member).toBe("large"); // nothing is left locked
});

test("a set that leads out of its folder is refused before anything else is asked for", async () => {
  const file = join(stage.models, "sizes", "set.json");
  const intact = readFileSync(file, "utf8");
  try {
    for (const folder of ["../middle", "/models/middle", "http://127.0.0.1:9/middle", "%2e%2e/middle"]) {
      const set = JSON.parse(intact);
      set.members[1].folder = folder;
      writeFileSync(file, JSON.stringify(set));
      requested = [];
      const error = await stage.page.evaluate((set) => failure(SlimViT.load(set, { latencyMs: 1 })), SET);
      expect(error).toMatchObject({ code: "bad-model", ours: true });
      expect(error.message).toContain(`members[1].folder is "${folder}"`);
      expect(requested.filter((path) => !path.startsWith("/dist/"))).toEqual([SET]);
    }
  } finally {
    writeFileSync(file, intact);
  }
});
