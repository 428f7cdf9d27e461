import fc from "fast-check";
import { InferenceSession, Tensor } from "onnxruntime-web";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openEngine } from "../../src/engines/auto.ts";
import { openOnnx } from "../../src/engines/onnx/engine.ts";
import { INPUT, writeOnnx } from "../../src/engines/onnx/graph.ts";
import { Message } from "../../src/engines/onnx/proto.ts";
import { encodeFloat16 } from "../../src/format/float16.ts";
import type { Architecture, Model } from "../../src/format/model.ts";
import { encodeTensors, selfTestPixels } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import { readModelFolder } from "../../tools/models/folders.ts";
import { cut, expectClose, randomModel, randomPixels, readGolden, slimArchitecture } from "../helpers.ts";
import { architecture, KEEP_SOME, slimCases } from "./networks.ts";

const golden = readGolden();

async function expectReferenceLogits(model: Model, seed = 1, tolerance = 1e-4): Promise<void> {
  const pixels = randomPixels(model.manifest, seed);
  const engine = await openOnnx(model, {});
  try {
    const { logits, features } = await engine.run(pixels);
    const expected = forward(model, pixels);
    expectClose(logits, expected.logits, tolerance, "logits");
    expectClose(features, expected.features, tolerance, "features");
  } finally {
    engine.dispose();
  }
}

describe("onnx-wasm gives the reference's logits", () => {
  test.each(golden.cases)("and PyTorch's for the golden network, cut by $name", async ({ cuts, logits: published }) => {
    const model = cut(golden.model, cuts);
    const engine = await openOnnx(model, {});
    for (const [i, pixels] of golden.images.entries()) {
      const { logits, features } = await engine.run(pixels);
      const expected = forward(model, pixels);
      expectClose(logits, expected.logits, 1e-4);
      expectClose(features, expected.features, 1e-4);
      expectClose(logits, published[i], 1e-4);
    }
    engine.dispose();
  });

  test.each<[string, Architecture]>([
    ...slimCases,
    ["one narrow head", architecture({ headDims: [1] }, { headDims: [3] })],
    ["equal narrow heads", architecture({ headDims: [5, 5, 5] }, { headDims: [5, 5] })],
    ["tokens dropped on the way", architecture({}, { keepIdx: KEEP_SOME })],
    ["only the class token from the second block on", architecture({}, { keepIdx: [0] })],
    ["one block", architecture({})],
  ])("%s", async (_, arch) => {
    await expectReferenceLogits(randomModel(arch, 7));
  });

  test("random slim networks", async () => {
    await fc.assert(
      fc.asyncProperty(slimArchitecture(), fc.integer({ min: 0, max: 1e6 }), async (arch, seed) => {
        await expectReferenceLogits(randomModel(arch, seed), seed);
      }),
      { numRuns: 40 },
    );
  });

  test.each(["f16", "int8"] as const)("%s weights, widened", async (dtype) => {
    const model = randomModel(architecture({}, { headDims: [3, 8], keepIdx: KEEP_SOME }), 3);
    await expectReferenceLogits({ ...model, dtype, tensors: encodeTensors(model.tensors, dtype) });
  });

  test("GELU in its erf form, not the tanh form", async () => {
    // The network's output is one unit's GELU(−2.2), where the two forms differ by 2.7e-4; eps 1 keeps the norm from hiding it.
    const model = randomModel({ ...architecture({ headDims: [], mlpHidden: 1 }), embedDim: 2, layerNormEps: 1 }, 1);
    for (const { data } of model.tensors.values()) data.fill(0);
    model.tensors.get("norm.weight")!.data.fill(1);
    model.tensors.get("blocks.0.mlp.fc1.bias")!.data[0] = -2.2;
    model.tensors.get("blocks.0.mlp.fc2.weight")!.data[0] = 1;
    await expectReferenceLogits(model, 1, 1e-5);
  });
});

describe("onnx-wasm", () => {
  const model = randomModel(architecture({}, {}), 1);
  const pixels = randomPixels(model.manifest, 1);
  let engine: Awaited<ReturnType<typeof openOnnx>>;
  beforeAll(async () => {
    engine = await openOnnx(model, { threads: 1 });
  });
  afterAll(() => engine.dispose());

  test("says its name and its threads", () => {
    expect(engine.name).toBe("onnx-wasm");
    expect(engine.threads).toBe(1);
  });

  test("does not claim threads that it was too late to start", async () => {
    const second = await openOnnx(model, { threads: 2 });
    expect(second.threads).toBe(1);
    second.dispose();
  });

  test("refuses to profile", async () => {
    await expect(engine.run(pixels, { profile: true })).rejects.toMatchObject({
      code: "unsupported",
      message: expect.stringContaining("profile"),
    });
  });

  test("sees an abort before the run and after it", async () => {
    await expect(engine.run(pixels, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "aborted" });
    const controller = new AbortController();
    const run = engine.run(pixels, { signal: controller.signal });
    controller.abort();
    await expect(run).rejects.toMatchObject({ code: "aborted" });
    await expect(engine.run(pixels)).resolves.toBeDefined();
  });

  test("leaves the caller's pixels alone and gives new arrays each time", async () => {
    const before = pixels.slice();
    const first = await engine.run(pixels);
    const kept = first.logits.slice();
    await engine.run(randomPixels(model.manifest, 9));
    expect(pixels).toEqual(before);
    expect(first.logits).toEqual(kept);
  });

  test("can be disposed of twice, and then says so", async () => {
    const other = await openOnnx(model, {});
    other.dispose();
    other.dispose();
    await expect(other.run(pixels)).rejects.toMatchObject({ code: "disposed" });
  });

  test("names the package when it does not load", async () => {
    const engineUrls = { "onnxruntime-web": "file:///nowhere/ort.wasm.bundle.min.mjs" };
    await expect(openOnnx(model, { engineUrls })).rejects.toMatchObject({
      code: "unsupported",
      message: expect.stringMatching(/npm install onnxruntime-web/),
    });
  });

  test("refuses a module that is another", async () => {
    const engineUrls = { "onnxruntime-web": "data:text/javascript,export default 1" };
    await expect(openOnnx(model, { engineUrls })).rejects.toMatchObject({
      code: "unsupported",
      message: expect.stringMatching(/exports no InferenceSession/),
    });
  });

  test("loads from a URL", async () => {
    const url = new URL("../../node_modules/onnxruntime-web/dist/ort.node.min.mjs", import.meta.url).href;
    const other = await openOnnx(model, { engineUrls: { "onnxruntime-web": url } });
    expectClose((await other.run(pixels)).logits, (await engine.run(pixels)).logits, 0);
    other.dispose();
  });
});

describe("openEngine", () => {
  const model = randomModel(architecture({}), 1);

  test.each(["simd", "onnx-wasm", "reference"] as const)("opens %s by its name", async (name) => {
    const { engine, tried } = await openEngine(name, model);
    expect(engine.name).toBe(name);
    expect(tried).toEqual([]);
    engine.dispose();
  });

  test("auto takes simd first", async () => {
    const { engine, tried } = await openEngine("auto", model);
    expect(engine.name).toBe("simd");
    expect(tried.map(({ engine }) => engine).sort()).toEqual(["webgpu", "webnn"]); // our own, which Node has no device for
    engine.dispose();
  });

  test("auto takes the next engine where the best does not open, and says why", async () => {
    const validate = WebAssembly.validate;
    WebAssembly.validate = () => false; // a machine without SIMD
    try {
      const { engine, tried } = await openEngine("auto", model);
      expect({ name: engine.name, tried }).toMatchObject({ name: "onnx-wasm" });
      expect(tried).toContainEqual({ engine: "simd", reason: expect.stringMatching(/SIMD/) });
      engine.dispose();
    } finally {
      WebAssembly.validate = validate;
    }
  });

  test.each(["gpu", "toString", "__proto__", ""])("refuses the name %j", async (name) => {
    await expect(openEngine(name as "auto", model)).rejects.toMatchObject({ code: "bad-option" });
  });

  test("says which engines this version lacks", async () => {
    await expect(openEngine("onnx-webgpu", model)).rejects.toMatchObject({ code: "unsupported" });
  });
});

describe("writeOnnx in f16", () => {
  const run = async (model: Model, pixels: Float32Array) => {
    const session = await InferenceSession.create(writeOnnx(model, { half: encodeFloat16 }), { logSeverityLevel: 3 });
    const { logits } = await session.run({
      [INPUT]: new Tensor("float32", pixels, [1, 3, ...model.manifest.imageSize]),
    });
    const values = Float32Array.from(logits.data as Float32Array);
    await session.release();
    return values;
  };

  test.each(golden.cases)("gives the golden network's logits within 0.02, cut by $name", async ({ cuts, logits }) => {
    expectClose(await run(cut(golden.model, cuts), golden.images[0]), logits[0], 0.02);
  });

  test("gives the shipped slim model's within 0.02", async () => {
    const model = readModelFolder("models/deit-tiny-slim", "f16");
    const pixels = selfTestPixels(model.manifest, 1);
    expectClose(await run(model, pixels), forward(model, pixels).logits, 0.02);
  });

  test("halves the weights", () => {
    const model = randomModel(architecture({ mlpHidden: 4096 }), 1);
    const ratio = writeOnnx(model, { half: encodeFloat16 }).length / writeOnnx(model).length;
    expect(ratio).toBeCloseTo(0.5, 1);
  });
});

describe("writeOnnx", () => {
  test("does not write what the slim network never reads", () => {
    const wide = randomModel(architecture({}), 1);
    const slim = randomModel(architecture({ keepIdx: [0, 5] }), 1);
    const dropped = 11 * 20 * 4; // position embeddings of 11 patches
    const difference = writeOnnx(wide).length - writeOnnx(slim).length;
    expect(difference).toBeGreaterThan(dropped - 400);
    expect(difference).toBeLessThanOrEqual(dropped);
  });

  test("refuses a network past protobuf's 2 GB", () => {
    const model = randomModel(architecture({}), 1);
    const data = { length: 2 ** 29 } as Float32Array; // stands for 2 GB
    model.tensors.set("head.weight", { dtype: "F32", shape: [2 ** 25, 16], data });
    expect(() => writeOnnx(model)).toThrow(expect.objectContaining({ code: "unsupported" }));
  });

  test("writes protobuf's numbers", () => {
    const bytes = new Message().int(1, 300).string(2, "é").float(3, 1).message(4, new Message().int(16, 0)).finish();
    expect([...bytes]).toEqual([0x08, 0xac, 0x02, 0x12, 2, 0xc3, 0xa9, 0x1d, 0, 0, 0x80, 0x3f, 0x22, 3, 0x80, 0x01, 0]);
  });
});
