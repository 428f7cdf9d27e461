/**
 * What the tensors of torchvision's and OpenAI's (OpenCLIP's) checkpoints do not tell. Neither has a config that import
 * can read.
 */
import { type Description, readActivation, readNumber, readScores, readSize } from "./description.ts";
import type { Weights } from "./weights.ts";

type Json = Record<string, unknown>;

/** torchvision.models.vision_transformer: heads of 64 channels (80 in ViT-H/14), eps 1e-6, exact GELU. */
export function describeTorchvision(config: Json, weights: Weights, source: string): Description {
  const width = weights.shape("blocks.0.norm1.weight", 1)[0];
  return {
    family: "torchvision's ViT",
    layerNormEps: 1e-6,
    heads: width / (width === 1280 ? 80 : 64),
    activation: "gelu",
    pooling: "class",
    scores: readScores(config, source),
    assumed: [`LayerNorm eps 1e-6 and exact GELU (torchvision's; --eps)`],
  };
}

/** CLIP as OpenAI published it, or as OpenCLIP saves it beside open_clip_config.json. */
export function describeClip(config: Json, weights: Weights, source: string): Description {
  const assumed: string[] = [];
  const model = config.open_clip as Json | undefined;
  const vision = (model?.vision_cfg ?? {}) as Json;
  const width = weights.shape("blocks.0.norm1.weight", 1)[0];
  const headDim = vision.head_width === undefined ? 64 : readNumber(vision.head_width, "head_width", source);
  if (!model) assumed.push("heads of 64 channels and quick_gelu, as in OpenAI's CLIP (open_clip_config.json)");
  const scale = weights.has("logit_scale") ? Math.exp(weights.take("logit_scale").data[0]) : undefined;
  return {
    family: "CLIP",
    layerNormEps: 1e-5,
    depth: vision.layers,
    heads: width / headDim,
    activation: readActivation(!model || model.quick_gelu === true ? "quick_gelu" : "gelu", "quick_gelu", source),
    pooling: "class",
    imageSize: readSize(vision.image_size),
    scores: "softmax",
    ...(scale && { zeroShot: { scores: "softmax", scale, bias: 0 } }),
    assumed,
  };
}
