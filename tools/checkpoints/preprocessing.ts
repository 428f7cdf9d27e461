/** How pictures become pixels: read from timm's and transformers' configs, or a family's default, which is printed. */
import { SlimViTError } from "../../src/errors.ts";
import type { Architecture, Preprocess } from "../../src/format/model.ts";
import type { Configs, Json } from "./checkpoint.ts";

type Triple = [number, number, number];
type Interpolation = Preprocess["interpolation"];

export interface PreprocessOptions {
  mean?: Triple;
  std?: Triple;
}

const IMAGENET = { mean: [0.485, 0.456, 0.406] as Triple, std: [0.229, 0.224, 0.225] as Triple };
const CLIP = {
  mean: [0.48145466, 0.4578275, 0.40821073] as Triple,
  std: [0.26862954, 0.26130258, 0.27577711] as Triple,
};
const HALVES = { mean: [0.5, 0.5, 0.5] as Triple, std: [0.5, 0.5, 0.5] as Triple };
const TIMM_CROP = 0.875;

/** Filters in the order of Pillow's numbers. */
const RESAMPLES: Interpolation[] = ["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"];

/** Defaults of transformers' image processors. */
const PROCESSORS: Record<string, { resample: Interpolation; mean: Triple; std: Triple }> = {
  ViT: { resample: "bilinear", ...HALVES },
  DeiT: { resample: "bicubic", ...IMAGENET },
  CLIP: { resample: "bicubic", ...CLIP },
  Siglip: { resample: "bicubic", ...HALVES },
  Beit: { resample: "bicubic", ...HALVES },
  Bit: { resample: "bicubic", ...CLIP },
  ConvNext: { resample: "bilinear", ...IMAGENET },
  Dinov2: { resample: "bicubic", ...IMAGENET },
  DINOv3ViT: { resample: "bilinear", ...IMAGENET },
  Levit: { resample: "bicubic", ...IMAGENET },
  PoolFormer: { resample: "bicubic", ...IMAGENET },
};

/** A model type's usual processor. */
const USUAL: Record<string, keyof typeof PROCESSORS> = {
  deit: "DeiT",
  clip: "CLIP",
  clip_vision_model: "CLIP",
  siglip: "Siglip",
  siglip_vision_model: "Siglip",
  beit: "Beit",
  dinov2: "Dinov2",
  dinov2_with_registers: "Dinov2",
  dinov3_vit: "DINOv3ViT",
};

/**
 * @param assumed receives a line for each value that no config gives
 * @throws SlimViTError `unsupported` for a step that the format cannot describe, naming it
 */
export function preprocessing(
  arch: Architecture,
  configs: Configs,
  options: PreprocessOptions,
  source: string,
  assumed: string[],
): Preprocess {
  const isHuggingFace = Object.keys(configs.preprocessor).length > 0 || "model_type" in configs.config;
  const found = isHuggingFace
    ? ofProcessor(arch, configs, options, source, assumed)
    : ofTimm(arch, configs.config, options, source, assumed);
  return { ...found, ...(options.mean && { mean: options.mean }), ...(options.std && { std: options.std }) };
}

/** timm.data.transforms_factory.transforms_imagenet_eval */
function ofTimm(
  arch: Architecture,
  config: Json,
  options: PreprocessOptions,
  source: string,
  assumed: string[],
): Preprocess {
  const cfg = (config.pretrained_cfg ?? config) as Json;
  const { imageSize } = arch;
  const take = <T>(key: string, flag: string, given: unknown, usual: T): T => {
    if (cfg[key] !== undefined && cfg[key] !== null) return cfg[key] as T;
    if (given === undefined) assumed.push(`${key} ${JSON.stringify(usual)} (timm's; ${flag})`);
    return usual;
  };
  const share = take("crop_pct", "config.json", undefined, TIMM_CROP);
  const mode = (cfg.crop_mode ?? "center") as string;
  if (!["center", "squash", "border"].includes(mode))
    throw new SlimViTError(
      "unsupported",
      `${source}: crop_mode is ${JSON.stringify(mode)}; expected "center", "squash" or "border".`,
    );
  const scaled = imageSize.map((side) => Math.max(Math.floor(side / share), side)) as [number, number];
  const isSquare = scaled[0] === scaled[1];
  const fit = mode === "border" ? "contain" : mode === "center" && !isSquare ? "cover" : undefined;
  const interpolation = String(cfg.interpolation ?? "bicubic");
  if (!RESAMPLES.includes(interpolation as Interpolation))
    throw new SlimViTError(
      "unsupported",
      `${source}: interpolation is "${interpolation}"; expected one of ${RESAMPLES.join(", ")}.`,
    );
  return {
    resize: mode === "center" && isSquare ? scaled[0] : scaled,
    crop: imageSize,
    ...(fit && { fit }),
    interpolation: interpolation as Interpolation,
    mean: triple(take("mean", "--mean", options.mean, IMAGENET.mean), "mean", source),
    std: triple(take("std", "--std", options.std, IMAGENET.std), "std", source),
  };
}

/** transformers' image processors, the slow ones, on Pillow. */
function ofProcessor(
  { imageSize }: Architecture,
  { config, preprocessor: p }: Configs,
  options: PreprocessOptions,
  source: string,
  assumed: string[],
): Preprocess {
  refuseSteps(p, source);
  const kind = String(p.image_processor_type ?? p.feature_extractor_type ?? "").match(
    /^(\w+?)(ImageProcessor|FeatureExtractor)/,
  )?.[1];
  const usual = PROCESSORS[kind ?? ""] ?? PROCESSORS[USUAL[config.model_type as string] ?? "ViT"];
  const isThere = Object.keys(p).length > 0;
  if (!isThere) assumed.push(`pictures squashed to ${imageSize[0]}×${imageSize[1]} px (preprocessor_config.json)`);
  const resample = p.resample as number | undefined;
  if (isThere && resample === undefined)
    assumed.push(`interpolation "${usual.resample}" (transformers'; preprocessor_config.json)`);
  if (resample !== undefined && !RESAMPLES[resample])
    throw new SlimViTError(
      "unsupported",
      `${source}: resample is ${JSON.stringify(resample)}; expected Pillow's 0 to 5.`,
    );
  const stated = (key: "mean" | "std"): Triple => {
    const value = p[`image_${key}`];
    if (value !== undefined && value !== null)
      return triple(typeof value === "number" ? [value, value, value] : value, `image_${key}`, source);
    if (p.do_normalize !== false && options[key] === undefined)
      assumed.push(`${key} ${JSON.stringify(usual[key])} (transformers'; --${key})`);
    return usual[key];
  };
  return {
    ...resizing(p, imageSize, kind, assumed),
    crop: imageSize,
    cropOffset: "floor",
    interpolation: resample === undefined ? usual.resample : RESAMPLES[resample],
    ...scaling(p, stated("mean"), stated("std"), assumed),
  };
}

/** Refuses steps that SlimViT cannot do. */
function refuseSteps(p: Json, source: string): void {
  const refuse = (key: string, what: string): never => {
    throw new SlimViTError(
      "unsupported",
      `${source}: preprocessor_config.json has ${key} ${JSON.stringify(p[key])}, which ${what}.`,
    );
  };
  if (p.do_flip_channel_order === true) refuse("do_flip_channel_order", "swaps red and blue; SlimViT's pixels are RGB");
  if (p.rescale_offset === true)
    refuse("rescale_offset", "shifts pixels by one after scaling them; SlimViT scales by mean and std alone");
  if (p.do_pad === true) refuse("do_pad", "pads pictures; SlimViT crops them");
  if (p.do_grayscale === true) refuse("do_grayscale", "makes pictures grey");
  if (p.do_resize !== false && !isSize(p.size)) refuse("size", "is neither a shorter side nor a height and a width");
}

/** @param size of a processor; without one, the network's is taken */
function isSize(size: unknown): boolean {
  if (size === undefined || size === null) return true;
  if (typeof size === "number") return size > 0;
  const { shortest_edge, height, width } = size as Record<string, unknown>;
  const isPositive = (side: unknown) => typeof side === "number" && side > 0;
  return isPositive(shortest_edge) || (isPositive(height) && isPositive(width));
}

/** The size that a picture is resized to: both sides, or the shorter one. */
function resizing(
  p: Json,
  imageSize: [number, number],
  kind: string | undefined,
  assumed: string[],
): Pick<Preprocess, "resize"> {
  const given = p.size as number | Record<string, number> | undefined;
  const shorterIsUsual =
    kind === "CLIP" || kind === "Bit" || kind === "ConvNext" || kind === "Levit" || kind === "PoolFormer";
  const size =
    typeof given === "number"
      ? shorterIsUsual
        ? { shortest_edge: given }
        : { height: given, width: given }
      : (given ?? {});
  if (p.do_resize === false) {
    assumed.push(`that pictures are resized to ${imageSize[0]}×${imageSize[1]} px, although do_resize is false`);
    return { resize: imageSize };
  }
  const crops = p.do_center_crop === true || (kind === "ConvNext" && size.shortest_edge < 384);
  if (size.shortest_edge) {
    const share = typeof p.crop_pct === "number" ? p.crop_pct : kind === "ConvNext" ? 224 / 256 : 1;
    if (kind === "ConvNext" && size.shortest_edge >= 384) return { resize: imageSize };
    const edge =
      kind === "Levit" ? Math.trunc((256 / 224) * size.shortest_edge) : Math.trunc(size.shortest_edge / share);
    if (!crops) assumed.push("that a crop is cut from the centre, although do_center_crop is not true");
    const wanted = Math.max(...imageSize);
    if (edge < wanted) assumed.push(`a shorter side of ${wanted} px, not ${edge}: the crop is larger`);
    return { resize: Math.max(edge, wanted) };
  }
  if (size.height && size.width) {
    const sides: [number, number] = [size.height, size.width];
    if (crops) return { resize: sides.map((side, k) => Math.max(side, imageSize[k])) as [number, number] };
    if (sides.join() !== imageSize.join())
      assumed.push(
        `pictures of ${imageSize[0]}×${imageSize[1]} px, the network's, not preprocessor_config.json's ${sides[0]}×${sides[1]}`,
      );
  }
  return { resize: imageSize };
}

/**
 * The pixel v of 0..255 becomes (v × factor − mean) / std. The format divides by 255 first, so mean and std are multiplied by
 * 1 / (255 × factor).
 */
function scaling(p: Json, mean: Triple, std: Triple, assumed: string[]): Pick<Preprocess, "mean" | "std"> {
  const factor = p.do_rescale === false ? 1 : typeof p.rescale_factor === "number" ? p.rescale_factor : 1 / 255;
  const normalises = p.do_normalize !== false;
  const unit = Math.abs(255 * factor - 1) < 1e-9 ? 1 : 1 / (255 * factor);
  if (unit !== 1)
    assumed.push(
      `pixels of 0 to ${Number((255 * factor).toPrecision(6))} before they are normalised, as preprocessor_config.json says`,
    );
  if (!normalises) assumed.push("pixels that are not normalised, as do_normalize is false");
  return {
    mean: (normalises ? mean : ([0, 0, 0] as Triple)).map((v) => v * unit) as Triple,
    std: (normalises ? std : ([1, 1, 1] as Triple)).map((v) => v * unit) as Triple,
  };
}

function triple(value: unknown, key: string, source: string): Triple {
  const list = Array.isArray(value) && value.length === 1 ? [value[0], value[0], value[0]] : value;
  if (Array.isArray(list) && list.length === 3 && list.every((v) => typeof v === "number")) return list as Triple;
  throw new SlimViTError("bad-model", `${source}: ${key} is ${JSON.stringify(value)}; expected three numbers.`);
}
