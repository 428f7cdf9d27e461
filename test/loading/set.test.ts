/** Loading from a set: with models that are stand-ins and take as long as they say, then with real ones from disk. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { SlimViTError, type SlimViTErrorCode } from "../../src/errors.ts";
import { type LoadOptions, SlimViT } from "../../src/index.ts";
import { loadFromSet } from "../../src/page/set.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { makeSet } from "../../tools/models/set.ts";
import { randomModel } from "../helpers.ts";

const folder = mkdtempSync(join(tmpdir(), "slimvit-set-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (...parts: string[]) => join(folder, ...parts);

function writeSet(name: string, macs: number[]): string {
  const members = macs.map((m, i) => ({
    folder: `m${m}`,
    macs: m,
    params: m,
    bytes: i ? { f16: 8 + m } : { f16: 8 + m, int8: 8 },
    accuracy: { top1: (i + 1) / 10, n: 10, data: "fruit", split: "test", engine: "simd", dtype: "f16" },
  }));
  mkdirSync(at(name), { recursive: true });
  writeFileSync(at(name, "set.json"), JSON.stringify({ format: "slimvit-set/1", name, members }));
  return at(name, "set.json");
}

describe("on a device that is a function", () => {
  /** milliseconds by MACs, or why it does not run */
  let device: (macs: number) => number | SlimViTErrorCode = () => 1;
  let loaded: number[] = [];
  let alive = 0;
  let mostAlive = 0;

  class StandIn {
    private isGone = false;
    private readonly facts: { macs: number; imageSize: [number, number] };
    constructor(readonly macs: number) {
      this.facts = { macs, imageSize: [4, 4] };
      mostAlive = Math.max(mostAlive, ++alive);
    }
    get info() {
      return this.facts;
    }
    async classify(_: unknown, { signal }: { signal?: AbortSignal }) {
      if (this.isGone) throw new SlimViTError("disposed", "gone");
      if (signal?.aborted) throw new SlimViTError("aborted", "stopped");
      return { latencyMs: { preprocess: 1000, inference: device(this.macs) as number, total: 2000 } };
    }
    dispose() {
      if (!this.isGone) alive--;
      this.isGone = true;
    }
  }

  const load = async (source: unknown, { onProgress }: LoadOptions) => {
    const macs = Number(String(source).match(/\/m(\d+)\/$/)![1]);
    loaded.push(macs);
    const found = device(macs);
    if (typeof found === "string") throw new SlimViTError(found, `m${macs} is too much`);
    onProgress?.({ file: "model.f16.safetensors", loadedBytes: 8, totalBytes: 8, cached: false });
    return new StandIn(macs);
  };
  const take = async (options: LoadOptions = {}, macs = [10, 20, 40, 80]) => {
    const { model, choice } = await loadFromSet(writeSet("stand-ins", macs), options, load);
    return { info: { ...model.info, set: choice } };
  };

  beforeEach(() => {
    device = (macs) => macs / 10;
    loaded = [];
    alive = mostAlive = 0;
  });
  afterEach(() => vi.unstubAllGlobals());

  test("without a budget the most accurate is loaded, and nothing else", async () => {
    const vit = await take();
    expect(loaded).toEqual([80]);
    expect(vit.info.set).toEqual({
      name: "stand-ins",
      member: "m80",
      accuracy: { top1: 0.4, n: 10, data: "fruit", split: "test", engine: "simd", dtype: "f16" },
      measured: [],
      reason: "the most accurate of 4; no latencyMs was asked for",
    });
  });

  test("the most accurate that meets the budget is taken; of those measured on the way none stays", async () => {
    const vit = await take({ latencyMs: 5 });
    expect(vit.info).toMatchObject({ macs: 40, imageSize: [4, 4] });
    expect(vit.info.set).toMatchObject({
      member: "m40",
      latencyMs: 5,
      meets: true,
      measured: [
        { member: "m10", ms: 1, when: "now" },
        { member: "m40", ms: 4, when: "now" },
      ],
    });
    expect([loaded, alive, mostAlive]).toEqual([[10, 40], 1, 2]);
  });

  test("where none meets it, the fastest is, and says so", async () => {
    const vit = await take({ latencyMs: 1e-6 });
    expect(vit.info.set).toMatchObject({ member: "m10", meets: false, latencyMs: 1e-6 });
    expect(vit.info.set!.reason).toMatch(/^no member takes at most 0\.000001 ms: the fastest, m10 takes 1\.00 ms/);
    expect([loaded, alive]).toEqual([[10], 1]);
  });

  test("one that does not fit into memory is passed over and named; one that is damaged is an error", async () => {
    device = (macs) => (macs > 20 ? "out-of-memory" : macs / 10);
    const { set } = (await take({ latencyMs: 100 })).info;
    expect(set).toMatchObject({ member: "m20", meets: true });
    expect(set!.measured).toContainEqual({ member: "m80", when: "now", fault: "m80 is too much" });
    expect(alive).toBe(1);
    device = (macs) => (macs > 20 ? "integrity" : macs / 10);
    await expect(take({ latencyMs: 100 })).rejects.toMatchObject({ code: "integrity" });
    expect(alive).toBe(1);
    device = () => "unsupported";
    await expect(take({ latencyMs: 100 })).rejects.toMatchObject({ code: "unsupported", message: "m10 is too much" });
  });

  test("an abort ends it between measurements, and leaves nothing behind", async () => {
    const controller = new AbortController();
    device = (macs) => {
      if (macs > 10) controller.abort();
      return macs / 10;
    };
    await expect(take({ latencyMs: 100, signal: controller.signal })).rejects.toMatchObject({ code: "aborted" });
    expect(alive).toBe(0);
  });

  test("progress names the member", async () => {
    const files: string[] = [];
    await take({ latencyMs: 5, onProgress: ({ file }) => files.push(file) });
    expect(files).toEqual(["m10/model.f16.safetensors", "m40/model.f16.safetensors"]);
  });

  test("a dtype leaves only the members that have it", async () => {
    expect((await take({ dtype: "int8" })).info.set!.member).toBe("m10");
    await expect(take({ dtype: "f32" })).rejects.toMatchObject({
      code: "bad-option",
      message: expect.stringMatching(/no member has f32 weights; they have f16, int8\.$/),
    });
  });

  test("what was measured is kept for the device and the set, and serves another budget", async () => {
    const kept = new Map<string, Response>();
    const cache = {
      match: async (key: string) => kept.get(key)?.clone(),
      put: async (key: string, response: Response) => void kept.set(key, response),
    };
    vi.stubGlobal("caches", { open: async () => cache });
    vi.stubGlobal("navigator", { userAgent: "a browser", hardwareConcurrency: 2 });
    vi.stubGlobal("crossOriginIsolated", false);
    await take({ latencyMs: 5 });
    expect(loaded).toEqual([10, 40]);
    const { set } = (await take({ latencyMs: 4.5 })).info;
    expect(loaded.slice(2)).toEqual([40]); // not measured again
    expect(set!.measured).toEqual([
      { member: "m10", ms: 1, when: "earlier" },
      { member: "m40", ms: 4, when: "earlier" },
    ]);
    expect(set!.reason).toMatch(/m40 takes 4\.00 ms, measured on an earlier visit/);
    await take({ latencyMs: 4.5, cache: false });
    expect(loaded.slice(3)).toEqual([10, 40]);
    await take({ latencyMs: 4.5, threads: 2 }); // another way to run is another device
    expect(loaded.slice(5)).toEqual([10, 40]);
    await take({ latencyMs: 4.5 }, [10, 20, 40, 90]); // and another set another set
    expect(loaded.slice(7)).toEqual([10, 40]);
    vi.stubGlobal("navigator", { userAgent: "another browser", hardwareConcurrency: 2 });
    await take({ latencyMs: 4.5 });
    expect(loaded.slice(9)).toEqual([10, 40]);
  });

  test.each<[string, LoadOptions, SlimViTErrorCode, RegExp]>([
    ["a budget of nothing", { latencyMs: 0 }, "bad-option", /latencyMs is 0; expected milliseconds above 0/],
    ["a budget that is none", { latencyMs: "5" as never }, "bad-option", /latencyMs is 5/],
    ["NaN", { latencyMs: Number.NaN }, "bad-option", /latencyMs is NaN/],
  ])("%s is refused before anything is read", async (_, options, code, message) => {
    await expect(loadFromSet(at("nowhere"), options, load)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message),
    });
  });

  test.each([
    [
      "hf:someone/some-set/sub/small-set.json",
      "https://huggingface.co/someone/some-set/resolve/main/sub/small-set.json",
    ],
    ["hf:someone/some-set", "https://huggingface.co/someone/some-set/resolve/main/set.json"],
    ["https://a.example/x", "https://a.example/x/set.json"],
    ["https://a.example/x/", "https://a.example/x/set.json"],
    ["https://a.example/x/set.json?v=2", "https://a.example/x/set.json?v=2"],
  ])("%s is read from %s", async (source, expected) => {
    const asked: string[] = [];
    vi.stubGlobal("fetch", async (url: string) => {
      asked.push(url);
      return new Response("", { status: 404 });
    });
    await expect(loadFromSet(source, { latencyMs: 1 }, load)).rejects.toMatchObject({
      code: "network",
      message: expect.stringMatching(/set\.json.*: the server answered 404/),
    });
    expect(asked).toEqual([expected]);
  });

  test("files are no set", async () => {
    await expect(SlimViT.load([], { latencyMs: 1 })).rejects.toMatchObject({
      code: "bad-option",
      message: expect.stringMatching(/needs the address of a model set/),
    });
  });
});

describe("with models on disk", () => {
  const picture = { data: new Uint8ClampedArray(40 * 30 * 4).fill(80), width: 40, height: 30 };
  const NAMES = ["small", "middle", "large"];

  beforeAll(() => {
    NAMES.forEach((name, i) => {
      const keepIdx = [...Array(17).keys()];
      const block = { headDims: Array(2 ** i).fill(4), mlpHidden: 8 * 4 ** i, keepIdx };
      const { manifest, tensors } = randomModel(
        {
          ...{ imageSize: [32, 32], patchSize: 8, embedDim: 8 * 2 ** i, headDim: 4, layerNormEps: 1e-6 },
          prefixTokens: 1,
          blocks: Array(1 + 2 * i).fill(block),
        },
        i,
      );
      const accuracy = {
        data: "fruit",
        split: "test",
        top1: 0.5 + i / 10,
        top5: 1,
        n: 30,
        engine: "simd",
        dtype: "f32",
      };
      writeModelFolder(at(name), { ...manifest, name, metrics: { accuracy: [accuracy] } }, tensors, ["f32", "f16"]);
    });
    makeSet(
      NAMES.map((name) => at(name)),
      { out: at("sizes") },
    );
  });

  test.each<[string, LoadOptions, string, boolean | undefined]>([
    ["no budget", {}, "large", undefined],
    ["a budget that all meet", { latencyMs: 1e9 }, "large", true],
    ["a budget that none meets", { latencyMs: 1e-6 }, "small", false],
  ])("%s: %o takes %s", async (_, options, member, meets) => {
    for (const engine of ["auto", "reference"] as const) {
      const vit = await SlimViT.load(at("sizes", "set.json"), { engine, dtype: "f32", ...options });
      expect(vit.info.set).toMatchObject({ member, name: "sizes" });
      expect(vit.info.set!.meets).toBe(meets);
      expect([vit.info.name, vit.info.dtype]).toEqual([member, "f32"]);
      expect(vit.info.engine).toBe(engine === "auto" ? "simd" : "reference");
      const alone = await SlimViT.load(at(member), { engine, dtype: "f32" });
      expect((await vit.classify(picture)).classes).toEqual((await alone.classify(picture)).classes);
      expect(alone.info.set).toBeUndefined();
      vit.dispose();
      alone.dispose();
    }
  });

  test("the folder of the set will do where a budget is named, and so will an address", async () => {
    for (const source of [at("sizes"), pathToFileURL(at("sizes/")), pathToFileURL(at("sizes", "set.json"))]) {
      const vit = await SlimViT.load(source, { latencyMs: 1e9, engine: "reference" });
      expect(vit.info.set!.member).toBe("large");
      vit.dispose();
    }
  });

  test("a set that has grown stale, a single model and a file that is missing are one sentence", async () => {
    const told = (source: string) =>
      SlimViT.load(source, { latencyMs: 1, engine: "reference" }).then(
        () => "none",
        ({ code, message }) => `${code} ${message}`,
      );
    const stale = JSON.parse(readFileSync(at("sizes", "set.json"), "utf8"));
    stale.members[0].macs -= 1;
    writeFileSync(at("sizes", "stale-set.json"), JSON.stringify(stale));
    expect(await told(at("sizes", "stale-set.json"))).toMatch(
      /^bad-model .*stale-set\.json: member "small" has \d+ MACs, the set says \d+; make the set again/,
    );
    expect(await told(at("small", "slimvit.json"))).toMatch(/^bad-option .*slimvit\.json: is a single model/);
    expect(await told(at("nowhere"))).toMatch(/^bad-model .*nowhere\/set\.json: cannot be read/);
    writeFileSync(at("huge-set.json"), " ".repeat(2 ** 20));
    expect(await told(at("huge-set.json"))).toMatch(/^bad-model .*huge-set\.json: is longer than 65536 bytes/);
  });
});
