/** What a checkpoint's tensors do not tell about its network. Configs, flags and defaults do. */
import { SlimViTError } from "../../src/errors.ts";
import type { Activation, Head, NormEps, Pooling, ZeroShot } from "../../src/format/model.ts";
import type { Resampling } from "./resize.ts";

/** How the coordinates of rotary positions are computed. */
export interface RopeRule {
  /**
   * index: rows and columns are counted from `offset`, and stretched to `reference` where there is one.
   * centred: from −1 to 1 over the picture, each patch at its centre.
   */
  grid: "index" | "centred";
  temperature: number;
  offset: number;
  /** [rows, columns] that the positions were trained on */
  reference?: [number, number];
  /** The first half of a head's pairs turns by columns, not by rows. */
  columnsFirst: boolean;
  /** Channel i of a head is turned with channel i + half its width, not with its neighbour. */
  half: boolean;
}

export interface Description {
  /** as messages call it: "DeiT", "CLIP" */
  family: string;
  layerNormEps: number;
  /** the number of blocks that the config states, which the tensors must have */
  depth?: unknown;
  normEps?: NormEps;
  /** of each block; the width of a head follows */
  heads?: number;
  activation: Activation;
  pooling: Pooling;
  /** The final norm is not used, as the pooling reads the tokens before it. */
  skipsFinalNorm?: boolean;
  imageSize?: [number, number];
  rope?: RopeRule;
  /** of learned positions, where it is not antialiased bicubic */
  resampling?: Resampling;
  poolHeads?: number;
  poolActivation?: Activation;
  scores: Head["scores"];
  zeroShot?: ZeroShot;
  /** assumptions that were made, one line each, for the user */
  assumed: string[];
}

type Json = Record<string, unknown>;

const ACTIVATIONS: Record<string, Activation> = {
  gelu: "gelu",
  gelu_python: "gelu",
  gelu_tanh: "gelu_tanh",
  gelu_new: "gelu_tanh",
  gelu_fast: "gelu_tanh",
  gelu_accurate: "gelu_tanh",
  gelu_pytorch_tanh: "gelu_tanh",
  gelu_python_tanh: "gelu_tanh",
  quick_gelu: "quick_gelu",
  quickgelu: "quick_gelu",
  relu: "relu",
  silu: "silu",
  swish: "silu",
};

/** @param key that the config has it under */
export function readActivation(value: unknown, key: string, source: string): Activation {
  const known = typeof value === "string" && Object.hasOwn(ACTIVATIONS, value) ? ACTIVATIONS[value] : undefined;
  if (!known)
    throw new SlimViTError(
      "unsupported",
      `${source}: ${key} is ${JSON.stringify(value)}; expected one of ${Object.keys(ACTIVATIONS).join(", ")}.`,
    );
  return known;
}

export function readNumber(value: unknown, key: string, source: string): number {
  if (typeof value !== "number" || !Number.isFinite(value))
    throw new SlimViTError("bad-model", `${source}: ${key} is ${JSON.stringify(value)}; expected a number.`);
  return value;
}

/** [height, width] of a config's number or pair. */
export function readSize(value: unknown): [number, number] | undefined {
  if (typeof value === "number") return [value, value];
  const isPair = Array.isArray(value) && value.length === 2 && value.every((side) => typeof side === "number");
  return isPair ? (value as [number, number]) : undefined;
}

/** How logits become scores according to the config. @throws SlimViTError `unsupported` for a regression */
export function readScores(config: Json, source: string): Head["scores"] {
  const problem = config.problem_type;
  if (problem === undefined || problem === null || problem === "single_label_classification") return "softmax";
  if (problem === "multi_label_classification") return "sigmoid";
  throw new SlimViTError(
    "unsupported",
    `${source}: problem_type is ${JSON.stringify(problem)}; SlimViT's heads are classifiers of one label (softmax) or of several (sigmoid).`,
  );
}
