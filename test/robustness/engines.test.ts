import { join } from "node:path";
import v8 from "node:v8";
import fc from "fast-check";
import { afterAll, beforeAll, describe, test } from "vitest";
import type { Engine } from "../../src/engines/engine.ts";
import { openOnnx } from "../../src/engines/onnx/engine.ts";
import { openFlavour } from "../../src/engines/simd/engine.ts";
import type { Architecture, Model, WeightsDtype } from "../../src/format/model.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { GPU_URLS, openGpuStage } from "../browser/gpu.ts";
import type { Stage } from "../browser/page.ts";
import { randomModel, randomPixels, slimArchitecture } from "../helpers.ts";
import { count, Tally } from "./tally.ts";

// For the binary with relaxed SIMD on Node 20, as in simd.test.ts: taken before anything is compiled.
v8.setFlagsFromString("--experimental-wasm-relaxed-simd");
v8.setFlagsFromString("--no-liftoff");

const ENGINES: Record<string, (model: Model) => Promise<Engine>> = {
  "simd, relaxed binary": (model) => openFlavour(model, {}, "relaxed"),
  "simd, plain binary": (model) => openFlavour(model, {}, "plain"),
  "simd, 2 threads": (model) => openFlavour(model, { threads: 2 }, "relaxed"),
  "onnx-wasm": (model) => openOnnx(model, {}),
};

/** Largest difference of a logit; they are about 1. In int8 our kernels round activations to 7 bits, the reference does not. */
const LIMITS = { exact: 1e-5, int8: 0.2, gpu: 1e-3 };

/** Norms of a few channels can magnify a rounding a thousandfold. */
const networks: fc.Arbitrary<Architecture> = slimArchitecture().map((arch) => ({
  ...arch,
  embedDim: arch.embedDim + 8,
}));

/** Compares logits with the reference's. */
class Agreement {
  /** largest difference so far, by engine */
  private readonly worst: Record<string, number> = {};

  /** @param limit largest difference of a logit, by engine */
  constructor(
    private readonly tally: Tally,
    private readonly limit: (engine: string) => number,
  ) {}

  add(engine: string, logits: ArrayLike<number>, expected: Float32Array, which: string): void {
    const limit = this.limit(engine);
    const off = expected.reduce((worst, v, i) => {
      const difference = Math.abs(v - logits[i]);
      return Math.max(difference, worst); // NaN stays
    }, 0);
    this.worst[engine] = Math.max(this.worst[engine] ?? 0, off);
    const [first, second] = expected.toSorted((a, b) => b - a);
    const isTie = first - second <= 2 * limit; // either may come first
    const top = (values: ArrayLike<number>) => Array.from(values).indexOf(Math.max(...Array.from(values)));
    const isRight = off <= limit && (isTie || top(logits) === top(expected));
    this.tally.add(
      isRight ? "" : `${engine} on ${which}: off by ${off}, ${[...Array.from(logits)]} for ${[...expected]}`,
    );
  }

  close(): void {
    const figures = Object.entries(this.worst).map(([engine, off]) => `${engine} ${off.toExponential(1)}`);
    this.tally.measured = `logits off by at most: ${figures.join(", ")}`;
    this.tally.close();
  }
}

describe.each<WeightsDtype>(["f32", "f16", "int8"])("%s", (dtype) => {
  test("random slim networks give the reference's logits on every engine of Node", async () => {
    const tally = new Tally("engines", `runs of random slim networks in ${dtype}`);
    const agreement = new Agreement(tally, (engine) =>
      dtype === "int8" && engine.startsWith("simd") ? LIMITS.int8 : LIMITS.exact,
    );
    await fc.assert(
      fc.asyncProperty(networks, fc.nat(1e6), async (arch, seed) => {
        const random = randomModel(arch, seed);
        const model: Model = { ...random, dtype, tensors: encodeTensors(random.tensors, dtype) };
        for (const [name, open] of Object.entries(ENGINES)) {
          const engine = await open(model);
          for (const k of [0, 1]) {
            const pixels = randomPixels(arch, seed + k);
            const { logits } = await engine.run(pixels);
            agreement.add(name, logits, forward(model, pixels).logits, `seed ${seed}, ${JSON.stringify(arch)}`);
          }
          engine.dispose();
        }
      }),
      { numRuns: count(250, 15) },
    );
    agreement.close();
  });
});

describe("WebGPU, on SwiftShader", () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await openGpuStage();
  });
  afterAll(() => stage?.close());

  test("random slim networks give the reference's logits on all three engines", async () => {
    const tally = new Tally("engines", "runs of random slim networks on WebGPU (SwiftShader)");
    const agreement = new Agreement(tally, () => LIMITS.gpu);
    const drawn = fc.sample(fc.tuple(networks, fc.nat(1e6)), count(30, 2));
    for (const [k, [arch, seed]] of drawn.entries()) {
      const model = randomModel(arch, seed);
      const { format: _, weights: __, ...draft } = model.manifest;
      writeModelFolder(join(stage.models, `random-${k}`), draft, model.tensors, ["f32"]);
      const pixels = randomPixels(arch, seed);
      const outputs = await stage.page.evaluate(
        async ({ folder, pixels, engineUrls }) => {
          const { model } = await loadModel(folder);
          const outputs = [];
          for (const name of ["webgpu", "tfjs-webgpu", "onnx-webgpu"] as const) {
            const { engine } = await openEngine(name, model, { engineUrls });
            outputs.push({ name, logits: [...(await engine.run(Float32Array.from(pixels))).logits] });
            engine.dispose();
          }
          return outputs;
        },
        { folder: `/models/random-${k}/`, pixels: [...pixels], engineUrls: GPU_URLS },
      );
      const expected = forward(model, pixels).logits;
      for (const { name, logits } of outputs)
        agreement.add(name, logits, expected, `seed ${seed}, ${JSON.stringify(arch)}`);
    }
    agreement.close();
  });
});
