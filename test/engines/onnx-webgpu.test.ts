/** In what arithmetic onnx-webgpu computes, by adapter and weights; test/engines/onnx.test.ts holds the f16 graph's logits to 0.02. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, afterEach, beforeAll, expect, test, vi } from "vitest";
import { writeOnnx } from "../../src/engines/onnx/graph.ts";
import { openOnnxWebgpu } from "../../src/engines/onnx/webgpu.ts";
import { encodeFloat16 } from "../../src/format/float16.ts";
import type { Model } from "../../src/format/model.ts";
import { FAMILY } from "../family.ts";
import { randomModel, readGolden } from "../helpers.ts";

let folder: string;
let runtimeUrl: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-onnx-webgpu-"));
  const file = join(folder, "runtime.mjs");
  // In the place of onnxruntime-web: keeps the graph that it is given, and the device.
  writeFileSync(
    file,
    `export const env = { wasm: {} };
    export const InferenceSession = {
      async create(graph, { executionProviders: [provider] }) {
        globalThis.opened = { graph, provider };
        return { release: async () => {} };
      },
    };`,
  );
  runtimeUrl = pathToFileURL(file).href;
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(() => vi.unstubAllGlobals());

declare global {
  var opened: { graph: Uint8Array; provider: { name: string; device: { features: Set<string> } } };
}

function adapterWith(...features: string[]) {
  return {
    features: new Set(features),
    limits: {},
    requestDevice: async ({ requiredFeatures }: GPUDeviceDescriptor) => ({
      features: new Set(requiredFeatures),
      lost: new Promise(() => {}),
      destroy() {},
    }),
  };
}

async function open(given: Model, ...features: string[]) {
  vi.stubGlobal("navigator", { gpu: { requestAdapter: async () => adapterWith(...features) } });
  const engine = await openOnnxWebgpu(given, { engineUrls: { "onnxruntime-web/webgpu": runtimeUrl } });
  engine.dispose();
  const same = (expected: Uint8Array) => Buffer.compare(opened.graph, expected) === 0;
  return {
    f16: same(writeOnnx(given, { half: encodeFloat16 })),
    f32: same(writeOnnx(given)),
    asked: [...opened.provider.device.features],
  };
}

test.each([
  ["f16 weights where the adapter has shader-f16: f16", "f16", ["shader-f16", "subgroups"], true],
  ["f16 weights where it has not: f32", "f16", ["subgroups"], false],
  ["f32 weights: f32, whatever it has", "f32", ["shader-f16"], false],
  ["int8 weights: f32, whatever it has", "int8", ["shader-f16"], false],
] as const)("%s", async (_, dtype, features, isHalf) => {
  const { f16, f32, asked } = await open({ ...readGolden().model, dtype }, ...features, "timestamp-query");
  expect({ f16, f32 }).toEqual({ f16: isHalf, f32: !isHalf });
  expect(asked).toEqual(features); // what the adapter has of what the engine wants
});

test("f16 weights of a network that merges: f32, in which pairs are told apart", async () => {
  const merging: Model = { ...randomModel(FAMILY["DeiT, merging"], 3), dtype: "f16" };
  expect(await open(merging, "shader-f16", "subgroups")).toMatchObject({ f16: false, f32: true });
});
