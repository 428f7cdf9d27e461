/** Slimmed vision transformers in the browser: `SlimViT.load`, `classify`, a label. */
export type { EngineName } from "./engines/engine.ts";
export { SlimViTError, type SlimViTErrorCode } from "./errors.ts";
export type { BlockShape, Label, WeightsDtype } from "./format/model.ts";
export type { RawImage, Region } from "./image/preprocess.ts";
export type { Progress, WeightsStore } from "./loading/loadModel.ts";
export type { EnginePackage } from "./page/packages/address.ts";
export type { MeasuredMember, SetChoice } from "./page/set.ts";
export {
  type Classification,
  type ClassifyOptions,
  type EmbedOptions,
  type ImageInput,
  type LoadOptions,
  type ModelSource,
  SlimViT,
} from "./page/slimvit.ts";
export type { FrameSource } from "./page/videoFrames.ts";
export type { ModelInfo, ScoredClass } from "./worker/session.ts";
