/** Engine `simd` from opening to disposal: threads, timing, aborts, memory. What it computes is in simd.test.ts. */
import { describe, expect, test } from "vitest";
import { openSimd } from "../../src/engines/simd/engine.ts";
import type { Architecture } from "../../src/format/model.ts";
import { forward } from "../../src/reference/forward.ts";
import { expectClose, randomModel, randomPixels } from "../helpers.ts";
import { architecture, encode, range } from "./networks.ts";

const dtypes = ["f32", "f16", "int8"] as const;

describe("simd", () => {
  const model = randomModel(architecture({}, { keepIdx: [0, 4, 9] }, { headDims: [] }), 1);
  const pixels = randomPixels(model.manifest, 1);

  test("says its name, and has one thread unless asked for more", async () => {
    const engine = await openSimd(model, {});
    expect([engine.name, engine.threads]).toEqual(["simd", 1]);
    engine.dispose();
  });

  test("times each block", async () => {
    const engine = await openSimd(model, {});
    const { blockMs, attention } = await engine.run(pixels, { profile: true });
    expect(blockMs?.length).toBe(3);
    expect(blockMs?.every((ms) => ms >= 0)).toBe(true);
    expect(attention).toBeUndefined();
    engine.dispose();
  });

  test("sees an abort before the run, an abort whose message comes during it, and a dispose", async () => {
    const engine = await openSimd(model, {});
    await expect(engine.run(pixels, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "aborted" });
    engine.dispose();

    const keepIdx = range(577);
    const block = { headDims: Array(6).fill(64), mlpHidden: 1536, keepIdx };
    const arch: Architecture = {
      ...architecture(),
      imageSize: [96, 96],
      embedDim: 384,
      headDim: 64,
      blocks: Array(4).fill(block),
    };
    const slow = randomModel(arch, 1);
    const slowEngine = await openSimd(slow, {});
    const controller = new AbortController();
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => controller.abort();
    port2.postMessage("abort");
    const run = slowEngine.run(randomPixels(arch, 1), { signal: controller.signal });
    await expect(run).rejects.toMatchObject({ code: "aborted" });
    port1.close();

    const unfinished = slowEngine.run(randomPixels(arch, 1), { signal: new AbortController().signal });
    slowEngine.dispose();
    slowEngine.dispose();
    await expect(unfinished).rejects.toMatchObject({ code: "disposed" });
  });

  test("opens a network of very many heads", async () => {
    const block = { headDims: Array(300).fill(1), mlpHidden: 0, keepIdx: [0] };
    const arch = { ...architecture(...Array(600).fill(block)), embedDim: 1, headDim: 1 };
    const engine = await openSimd(randomModel(arch, 1), {});
    expect(engine.name).toBe("simd");
    engine.dispose();
  });

  test("refuses pixels of another size", async () => {
    const engine = await openSimd(model, {});
    await expect(engine.run(pixels.subarray(1))).rejects.toMatchObject({ code: "bad-input" });
    engine.dispose();
  });

  test("is disposed of twice without harm, and runs no more", async () => {
    for (const threads of [1, 2]) {
      const engine = await openSimd(model, { threads });
      engine.dispose();
      engine.dispose();
      await expect(engine.run(pixels)).rejects.toMatchObject({ code: "disposed" });
    }
  });

  test("runs several models side by side", async () => {
    const models = [1, 2, 3].map((seed) => randomModel(model.manifest, seed));
    const engines = await Promise.all(models.map((each, i) => openSimd(each, { threads: 1 + (i % 2) })));
    for (const i of [0, 1, 2, 1, 0, 2]) {
      expectClose((await engines[i].run(pixels)).logits, forward(models[i], pixels).logits, 1e-4);
    }
    for (const engine of engines) engine.dispose();
  });

  test.each(dtypes)("holds %s weights once, and says how much it holds", async (dtype) => {
    const model = encode(
      randomModel({ ...architecture(...Array(6).fill({ mlpHidden: 512 })), embedDim: 128 }, 3),
      dtype,
    );
    const engine = await openSimd(model, {});
    const weights = [...model.tensors.values()].reduce((sum, { data }) => sum + data.byteLength, 0);
    expect(engine.memoryBytes).toBeGreaterThan(weights);
    expect(engine.memoryBytes).toBeLessThan(1.1 * weights + 2 * 65_536); // biases become f32, widths multiples of 8; pages
    engine.dispose();
  });

  test("says which memory could not be had", async () => {
    const { Memory } = WebAssembly;
    try {
      WebAssembly.Memory = class {
        constructor() {
          throw new RangeError("could not allocate memory");
        }
      } as unknown as typeof WebAssembly.Memory;
      await expect(openSimd(model, {})).rejects.toMatchObject({ code: "out-of-memory" });
    } finally {
      WebAssembly.Memory = Memory;
    }
  });

  test("says so where WebAssembly has no SIMD", async () => {
    const { validate } = WebAssembly;
    try {
      WebAssembly.validate = () => false;
      await expect(openSimd(model, {})).rejects.toMatchObject({
        code: "unsupported",
        message: expect.stringContaining("SIMD"),
      });
    } finally {
      WebAssembly.validate = validate;
    }
  });
});
