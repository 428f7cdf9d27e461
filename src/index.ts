/** Slimmed vision transformers in the browser: `SlimViT.load`, `classify`, a label. */
export type { EngineName } from "./engines/engine.ts";
export { SlimViTError, type SlimViTErrorCode } from "./errors.ts";
export type { BlockShape, Label, WeightsDtype } from "./format/model.ts";
export type { Progress, WeightsStore } from "./load.ts";
export type { RawImage, Region } from "./preprocess.ts";
export type { ModelInfo, ScoredClass } from "./session.ts";
export type { MeasuredMember, SetChoice } from "./set.ts";
export {
  type Classification,
  type ClassifyOptions,
  type EmbedOptions,
  type ImageInput,
  type LoadOptions,
  type ModelSource,
  SlimViT,
} from "./slimvit.ts";
export type { FrameSource } from "./stream.ts";
