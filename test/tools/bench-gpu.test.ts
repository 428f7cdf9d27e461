import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { checkOutputs, deviceOf, type GpuBenchRow, gpuBenchTable } from "../../tools/bench/benchGpu.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { tinySlimModel } from "../browser/page.ts";
import { BIN } from "./fixtures.ts";
import { swiftShader } from "./swiftshader.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-bench-gpu-"));
  const { draft, tensors } = tinySlimModel();
  writeModelFolder(join(folder, "tiny"), draft, tensors, ["f32", "f16"]);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** @param dtypes without them, all that the model has */
function bench(engine: string, env: Record<string, string>, ...dtypes: string[]) {
  const args = [BIN, "bench", join(folder, "tiny"), "--engine", engine, "--rounds", "2", "--json"];
  if (dtypes.length) args.push("--dtype", dtypes.join());
  return spawnSync(process.execPath, args, { encoding: "utf8", env: { ...process.env, ...env } });
}

describe("slimvit bench of engines on WebGPU", () => {
  test.each([
    ["webgpu", ["f32", "f16"]],
    ["tfjs-webgpu", ["f32", "f16"]],
    ["onnx-webgpu", ["f32"]], // a second would compile all shaders again, which is slow on a CPU
  ])("measures %s as it ships in Node, through Dawn and Vulkan, and calls a software adapter one", (engine, dtypes) => {
    const { status, stdout, stderr } = bench(engine, swiftShader(), ...(engine === "webgpu" ? [] : dtypes));
    expect(status, stderr).toBe(0);
    const rows = JSON.parse(stdout) as GpuBenchRow[];
    expect(rows.map(({ dtype }) => dtype)).toEqual(dtypes);
    for (const row of rows) {
      expect(row).toMatchObject({ model: "tiny-slim", engine, isSoftware: true });
      expect(row.device).toMatch(/swiftshader/i);
      expect(row.msMedian).toBeGreaterThan(0);
      expect(row.msP90).toBeGreaterThanOrEqual(row.msP10);
      expect(row.maxAbsDiff).toBeLessThan(1e-3);
      expect(row.gmacs).toBeGreaterThan(0);
      if (engine === "webgpu") expect(row.dispatches).toBeGreaterThan(0);
      if (engine === "webgpu") expect(row.encodeMs).toBeGreaterThan(0);
    }
    expect(gpuBenchTable(rows)).toMatch(/^.*swiftshader.*: a software adapter\..*\n\n.*ms in software, median/i);
  });

  test("refuses outputs that rounding does not explain", () => {
    for (const [error, dtype] of [
      [0.0009, "f32"],
      [0.09, "f16"],
      [0.0009, "int8"],
    ] as const)
      expect(() => checkOutputs(error, dtype, "m")).not.toThrow();
    for (const [error, dtype] of [
      [0.002, "f32"],
      [0.2, "f16"],
      [0.002, "int8"],
      [Number.NaN, "f16"],
    ] as const)
      expect(() => checkOutputs(error, dtype, "m")).toThrow(`m: log-probabilities are ${error} off`);
  });

  test("says what is missing where there is no GPU", () => {
    const { status, stderr } = bench("tfjs-webgpu", { VK_ICD_FILENAMES: join(folder, "none.json") });
    expect(stderr).toMatch(/Dawn finds no GPU: it needs Vulkan/);
    expect(status).toBe(1);
  });

  test("does not mix with what a browser measures", () => {
    const { status, stderr } = bench("simd,tfjs-webgpu", {});
    expect(stderr).toMatch(/measured in Node, and the others in a browser\. Name engines of one kind only/);
    expect(status).toBe(2);
  });

  test("a GPU is named in its own words, and its milliseconds are milliseconds", () => {
    const info = {
      vendor: "nvidia",
      architecture: "hopper",
      device: "",
      description: "a card",
      isFallbackAdapter: false,
    };
    expect(deviceOf(info)).toEqual({ device: "nvidia, hopper, a card", isSoftware: false });
    expect(deviceOf({ vendor: "mesa", architecture: "software", description: "llvmpipe" }).isSoftware).toBe(true);
    expect(deviceOf({ ...info, isFallbackAdapter: true }).isSoftware).toBe(true);
    const row = { model: "m", engine: "tfjs-webgpu", dtype: "f16", threads: 1, loadMs: 1, maxAbsDiff: 0 } as const;
    const times = { msMedian: 2, msP10: 1, msP90: 3, gmacs: 1 };
    const table = gpuBenchTable([
      { ...row, ...times, ...deviceOf(info) },
      { ...row, ...times, msMedian: 1, gmacs: 0.4, ...deviceOf(info) },
    ]);
    expect(table).toMatch(/^nvidia, hopper, a card, through Dawn in Node/);
    expect(table).not.toMatch(/software/);
    expect(table).toMatch(/\| m \| tfjs-webgpu \| f16 \| 1\.00 \(1\.00–3\.00\) \| 0\.50 \| 0\.40 \|/);
  });
});
