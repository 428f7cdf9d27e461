/** Engine "auto" with engines whose times a test decides about: which one it takes, and what it keeps for the next visit. */
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { type OpenOptions, openEngine } from "../../src/engines/auto.ts";
import type { EngineOptions } from "../../src/engines/engine.ts";
import type { Manifest, Model } from "../../src/format/model.ts";
import { manifestOf } from "../helpers.ts";

/** Milliseconds of an engine's runs, the first ones first; the last one goes on. Without an entry it does not open. */
let times: Record<string, number[]> = {};
let devices: Record<string, string> = {};
/** opened and not disposed of */
let open: string[] = [];
/** every engine that was opened, in order */
let opened: string[] = [];
const kept = new Map<string, string>();

vi.mock("../../src/engines/opening.ts", async (original) => {
  const openNamed = async (name: string, _: Model, { webnn }: EngineOptions) => {
    const { deviceType } = webnn ?? {};
    const which = deviceType ? `${name} ${deviceType}` : name;
    if (!times[which]) throw new Error(`${which} does not open`);
    let runs = 0;
    opened.push(which);
    open.push(which);
    const engine = {
      ...{ name, deviceType, threads: 1 },
      async run() {
        vi.advanceTimersByTime(times[which][runs++] ?? times[which].at(-1)!);
      },
      dispose: () => void open.splice(open.indexOf(which), 1),
    };
    return { engine, firstRunMs: 1 };
  };
  return {
    ...(await original<object>()),
    openNamed,
    openWithoutDevice: async (model: Model, options: EngineOptions) => ({
      ...(await openNamed("simd", model, { ...options, webnn: undefined })),
      ...{ tried: [], reason: "the first that opened" },
    }),
  };
});
vi.mock("../../src/engines/devices.ts", () => ({ deviceName: async (device: string) => devices[device] ?? "" }));
vi.mock("../../src/loading/cache.ts", () => ({
  readChoice: async (key: string) => kept.get(key),
  keepChoice: async (key: string, choice: string) => void kept.set(key, choice),
}));

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["performance", "Date"] });
  vi.stubGlobal("navigator", { userAgent: "a browser", hardwareConcurrency: 8 });
  vi.stubGlobal("location", { href: "https://app.example/worker.js" });
  times = { simd: [20] };
  devices = { "hardware-gpu": "a card", gpu: "a card", npu: "a chip" };
  [open, opened] = [[], []];
  kept.clear();
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

const sizes = { imageSize: [8, 8] as [number, number], patchSize: 4, embedDim: 8, headDim: 4, layerNormEps: 1e-6 };
const block = { headDims: [4], mlpHidden: 8, keepIdx: [0, 1, 2, 3, 4] };
const weightsOf = (sha256: string) => [{ dtype: "f32" as const, file: "model.f32.safetensors", bytes: 1, sha256 }];
const manifest: Manifest = { ...manifestOf({ ...sizes, prefixTokens: 1, blocks: [block] }), weights: weightsOf("aa") };

const choose = async (options: OpenOptions = {}, of: Manifest = manifest) => {
  const found = await openEngine("auto", { manifest: of, dtype: "f32", tensors: new Map() }, options);
  return { ...found, name: found.engine.name };
};

describe("of the engines that open here", () => {
  test("the fastest is taken, the others are closed, and each one's time is reported", async () => {
    times = { simd: [20], webgpu: [5], "webnn npu": [30], "webnn gpu": [8], "webnn cpu": [25] };
    const { name, tried, reason } = await choose();
    expect(name).toBe("webgpu");
    expect(open).toEqual(["webgpu"]);
    expect(reason).toBe("the fastest, 5.0 ms a run, measured here");
    const figures = tried.map(({ engine, deviceType, ms }) => [engine, deviceType, ms]);
    expect(figures).toEqual([
      ["simd", undefined, 20],
      ["webnn", "npu", 30],
      ["webnn", "gpu", 8],
      ["webnn", "cpu", 25],
    ]);
  });

  test("the one of the CPU stays where no other is faster", async () => {
    times = { simd: [20], webgpu: [20], "webnn gpu": [21] };
    const { name, tried } = await choose();
    expect([name, open]).toEqual(["simd", ["simd"]]);
    expect(tried).toContainEqual({ engine: "webnn", deviceType: "npu", reason: "webnn npu does not open" });
  });

  test("the median of five runs counts, not a single slow or fast one", async () => {
    times = { simd: [20], webgpu: [18, 300, 18, 18, 1], "webnn npu": [1, 1, 19, 19, 19] };
    const { name, tried } = await choose();
    expect(name).toBe("webgpu");
    expect(tried.at(0)).toMatchObject({ engine: "simd", ms: 20 });
    expect(tried.at(1)).toMatchObject({ engine: "webnn", ms: 19 });
  });

  test("one whose device is missing is not opened, and the reason says so", async () => {
    times = { simd: [20], webgpu: [5], "webnn npu": [8] };
    devices["hardware-gpu"] = "";
    const { name, tried } = await choose();
    expect(name).toBe("webnn");
    expect(opened).not.toContain("webgpu");
    expect(tried).toContainEqual({ engine: "webgpu", reason: "There is no WebGPU adapter of a real GPU." });
  });

  test("the kind of device that the caller names is the only one that is measured", async () => {
    times = { simd: [20], "webnn npu": [1], "webnn cpu": [9] };
    const { engine } = await choose({ webnn: { deviceType: "cpu" } });
    expect([engine.name, engine.deviceType]).toEqual(["webnn", "cpu"]);
    expect(opened).toEqual(["simd", "webnn cpu"]);
  });

  test("none is left open when the caller aborts", async () => {
    times = { simd: [20], webgpu: [5] };
    const signal = AbortSignal.abort();
    await expect(choose({ signal })).rejects.toMatchObject({ code: "aborted" });
    expect(open).toEqual([]);
  });
});

describe("what was measured on an earlier visit", () => {
  const keeps = { keeps: true };

  /** Measures, and opens again. @returns what the second visit opened */
  async function again(change: () => OpenOptions | undefined, of = manifest): Promise<string[]> {
    times = { simd: [20], "webnn gpu": [5] };
    await choose({ ...keeps, threads: 2 });
    opened = [];
    await choose({ ...keeps, threads: 2, ...change() }, of);
    return opened;
  }
  const ONLY_THE_CHOSEN = ["webnn gpu"];
  const ALL = ["simd", "webnn gpu"];

  test("is not measured again, and the reason says so", async () => {
    expect(await again(() => ({}))).toEqual(ONLY_THE_CHOSEN);
    const { engine, reason, tried } = await choose({ ...keeps, threads: 2 });
    expect(engine).toMatchObject({ name: "webnn", deviceType: "gpu" });
    expect(reason).toBe("the fastest, 5.0 ms a run, measured on an earlier visit");
    expect(tried).toContainEqual({ engine: "simd", ms: 20, reason: "slower: 20.0 ms a run" });
  });

  test("counts neither for a call that keeps nothing, nor is it kept by one", async () => {
    expect(await again(() => ({ keeps: false }))).toEqual(ALL);
    kept.clear();
    await choose();
    expect(kept.size).toBe(0);
  });

  const two = (variant: string): Manifest => ({
    ...manifest,
    variant,
    variants: ["small", "large"].map((name) => ({ ...manifest.variants[0], name })),
  });
  const pretend = (name: string, value: object) => {
    vi.stubGlobal(name, value);
    return {};
  };
  test.each<[string, () => OpenOptions, Manifest?]>([
    ["threads", () => ({ threads: 4 })],
    ["addresses of packages", () => ({ engineUrls: { "onnxruntime-web": "https://app.example/ort.js" } })],
    ["packages", () => ({ packages: ["@tensorflow/tfjs-backend-webgpu"] })],
    ["options of WebNN", () => ({ webnn: { powerPreference: "low-power" } as never })],
    ["weights", () => ({}), { ...manifest, weights: weightsOf("bb") }],
    ["browsers", () => pretend("navigator", { userAgent: "another browser", hardwareConcurrency: 8 })],
    ["numbers of cores", () => pretend("navigator", { userAgent: "a browser", hardwareConcurrency: 4 })],
    ["builds of the app", () => pretend("location", { href: "https://app.example/worker-2.js" })],
  ])("does not count for other %s", async (_, change, of) => {
    expect(await again(change, of)).toEqual(ALL);
  });

  test("does not count for another variant of the folder", async () => {
    times = { simd: [20], "webnn gpu": [5] };
    for (const [variant, expected] of [
      ["small", ALL],
      ["large", ALL],
      ["small", ONLY_THE_CHOSEN],
    ] as const) {
      opened = [];
      await choose(keeps, two(variant));
      expect(opened).toEqual(expected);
    }
  });

  test("counts for 30 days", async () => {
    const days = (count: number) => () => {
      vi.setSystemTime(Date.now() + count * 24 * 3600 * 1000);
      return {};
    };
    expect(await again(days(29))).toEqual(ONLY_THE_CHOSEN);
    expect(await again(days(31))).toEqual(ALL);
  });

  test.each<[string, Record<string, string>]>([
    ["another card", { "hardware-gpu": "another card" }],
    ["a card that is gone", { "hardware-gpu": "" }],
  ])("does not count with %s", async (_, changed) => {
    const change = () => {
      devices = { ...devices, ...changed };
      return {};
    };
    expect(await again(change)).toEqual(ALL);
  });

  test("is measured again where the chosen engine no longer opens", async () => {
    const change = () => {
      times = { simd: [20], webgpu: [5] };
      return {};
    };
    expect(await again(change)).toEqual(["simd", "webgpu"]);
  });
});
