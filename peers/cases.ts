/** What is compared: every runtime with every form of the same network that it takes. */
import type { EngineName } from "../src/engines/engine.ts";
import type { WeightsDtype } from "../src/format/model.ts";

export type Network = "dense" | "slim" | "masked" | "uniform";

export interface Case {
  peer: "slimvit" | "ort" | "litert" | "tfjs" | "transformers";
  /** as the table says */
  name: string;
  network: Network;
  dtype: WeightsDtype;
  /** file or folder among those that models.ts writes */
  model: string;
  engine?: EngineName;
  /** takes picture files */
  pipeline?: boolean;
}

const both: Network[] = ["dense", "slim"];
const dtypes: WeightsDtype[] = ["f32", "int8"];

const ours = (engine: EngineName): Case[] =>
  both.flatMap((network) =>
    dtypes
      .filter((dtype) => engine === "simd" || dtype === "f32") // the onnx engines widen int8 to f32
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

export const CASES: Case[] = [
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
  ...both.flatMap((network) =>
    dtypes.map(
      (dtype): Case => ({ peer: "litert", name: "LiteRT.js", network, dtype, model: `${network}.${dtype}.tflite` }),
    ),
  ),
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
