/** What is compared: every runtime with every form of the same network that it takes. */
import type { EngineName } from "../src/engines/engine.ts";
import type { WeightsDtype } from "../src/format/model.ts";

export type Network = "dense" | "slim" | "masked" | "uniform";

/** The platforms of a comparison: kernels in WASM, engines on a GPU, or the Web Neural Network API beside WASM. */
export const PLATFORMS = ["wasm", "webgpu", "webnn"] as const;
export type Platform = (typeof PLATFORMS)[number];
export type Accelerator = Platform;

export interface Case {
  peer: "slimvit" | "ort" | "ortWebnn" | "litert" | "tfjs" | "transformers";
  /** the name in the table */
  name: string;
  network: Network;
  dtype: WeightsDtype;
  /** file or folder among those that models.ts writes */
  model: string;
  engine?: EngineName;
  /** of a peer that has several; default its WASM kernels */
  accelerator?: Accelerator;
  /** largest difference of a log-probability from the reference, of a runtime that is less exact than its dtype */
  tolerance?: number;
  /** takes picture files */
  pipeline?: boolean;
}

const both: Network[] = ["dense", "slim"];
const dtypes: WeightsDtype[] = ["f32", "int8"];

const ours = (engine: EngineName): Case[] =>
  both.flatMap((network) =>
    dtypes
      .filter((dtype) => !/^onnx|^tfjs/.test(engine) || dtype === "f32") // they widen int8 to f32
      .map((dtype) => ({
        peer: "slimvit",
        name: `SlimViT ${engine}`,
        network,
        dtype,
        model: network,
        engine,
        pipeline: true,
      })),
  );

const litert = (accelerator: Accelerator, of: WeightsDtype[]): Case[] =>
  both.flatMap((network) =>
    of.map(
      (dtype): Case => ({
        peer: "litert",
        name: accelerator === "wasm" ? "LiteRT.js" : `LiteRT.js ${accelerator}`,
        network,
        dtype,
        model: `${network}.${dtype}.tflite`,
        accelerator,
        // On a GPU it is 0.04 off, in its f32 too.
        ...(accelerator === "webgpu" && { tolerance: 0.1 }),
      }),
    ),
  );

const WASM: Case[] = [
  ...ours("simd"),
  ...ours("onnx-wasm"),
  ...(["dense", "masked", "uniform", "slim"] as Network[]).map(
    (network): Case => ({ peer: "ort", name: "onnxruntime-web", network, dtype: "f32", model: `${network}.onnx` }),
  ),
  ...both.flatMap((network) =>
    (["MatMulInteger", "DynamicQuantizeMatMul"] as const).map(
      (form): Case => ({
        peer: "ort",
        name: `onnxruntime-web, ${form}`,
        network,
        dtype: "int8",
        model: `${network}.${form}.onnx`,
      }),
    ),
  ),
  ...litert("wasm", dtypes),
  ...both.map((network): Case => ({ peer: "tfjs", name: "tfjs-backend-wasm", network, dtype: "f32", model: network })),
  ...dtypes.map(
    (dtype): Case => ({
      peer: "transformers",
      name: "transformers.js",
      network: "dense",
      dtype,
      model: `transformers#${dtype === "f32" ? "fp32" : "q8"}`,
      pipeline: true,
    }),
  ),
];

/** The first case of each is what its table compares the others with. */
export const CASES: Record<Platform, Case[]> = {
  wasm: WASM,
  webgpu: [...ours("webgpu"), ...ours("onnx-webgpu"), ...ours("tfjs-webgpu"), ...litert("webgpu", ["f32"])],
  webnn: [
    ...ours("webnn"),
    ...ours("simd"),
    ...both.flatMap((network) =>
      dtypes.map(
        (dtype): Case => ({
          peer: "ortWebnn",
          name: dtype === "int8" ? "onnxruntime-web WebNN, QDQ" : "onnxruntime-web WebNN",
          network,
          dtype,
          model: dtype === "int8" ? `${network}.qdq.onnx` : `${network}.onnx`,
        }),
      ),
    ),
    ...litert("webnn", ["f32"]),
  ],
};
