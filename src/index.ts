/** Slimmed vision transformers in the browser: `SlimViT.load`, `classify`, a label. */
export { SlimViTError, type SlimViTErrorCode } from "./errors.ts";
export type { BlockShape, Label, Pooling, WeightsDtype } from "./format/model.ts";
export { SlimViT } from "./page/slimvit.ts";
export type {
  BatchProgress,
  BatchResult,
  Classification,
  ClassifyAllOptions,
  ClassifyOptions,
  EmbedOptions,
  EngineName,
  EnginePackage,
  FrameSource,
  ImageInput,
  LoadOptions,
  ModelHost,
  ModelInfo,
  ModelPackage,
  ModelSource,
  Progress,
  RawImage,
  Region,
  ScoredClass,
  StreamOptions,
  TriedEngine,
  VariantChoice,
  VariantInfo,
  VariantRequest,
  WebnnOptions,
  WeightsStore,
} from "./protocol.ts";
