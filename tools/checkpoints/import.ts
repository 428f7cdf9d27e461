/**
 * slimvit import SRC -o MODEL: a timm or Hugging Face checkpoint → a dense model folder.
 * SRC is a .safetensors file, or a folder with one (sharded or not), config.json and preprocessor_config.json. What the
 * tensors cannot tell is taken from the configs, else from the flags, else from timm's defaults, and said aloud.
 */
import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { decodeFloat16 } from "../../src/format/float16.ts";
import {
  type Architecture,
  countMacs,
  countParams,
  denseTokens,
  type Label,
  type Preprocess,
  plainArchitecture,
  type Tensors,
  tensorShapes,
} from "../../src/format/model.ts";
import { readSafetensors, type StoredTensor } from "../../src/format/safetensors.ts";
import { claimOutput, sha256, withStep, writeModelFolder } from "../models/folders.ts";
import { safetensorsMetadata } from "../models/metadata.ts";
import { say, si } from "../shared/terminal.ts";
import { fromHuggingFace, isHuggingFace } from "./huggingFace.ts";

export interface ImportOptions {
  out: string;
  name?: string;
  labels?: string;
  heads?: number;
  imageSize?: [number, number];
  mean?: [number, number, number];
  std?: [number, number, number];
  eps?: number;
  license?: string;
  force?: boolean;
}

/** timm's, for a checkpoint that says nothing else; ViT and DeiT of every size have heads of 64 channels. */
const DEFAULTS = {
  headDim: 64,
  layerNormEps: 1e-6,
  cropPct: 0.875,
  mean: [0.485, 0.456, 0.406],
  std: [0.229, 0.224, 0.225],
};

export function importModel(source: string, options: ImportOptions): { params: number; macs: number } {
  claimOutput(options.out, options.force);
  const { tensors: stored, configs, hashes, license } = readCheckpoint(source);
  const named = isHuggingFace(stored) ? fromHuggingFace(stored, source) : stored;
  const assumed: string[] = [];
  const arch = architecture(named, configs, options, source, assumed);
  const classes = named.get("head.weight")?.shape[0];
  if (!classes)
    throw new SlimViTError("bad-model", `${source}: has no classifier ("head.weight"); SlimViT needs one to slim for.`);
  const tensors = collect(named, arch, classes, source);
  const labels = readLabels(options.labels, configs, classes, assumed);
  const preprocess = preprocessing(arch, configs, options, assumed);
  for (const line of assumed) say(`import: assumed ${line}`);

  const name = options.name ?? basename(source.replace(/\/$/, "")).replace(/\.safetensors$/, "");
  const draft = {
    name,
    license: options.license ?? license ?? "unknown",
    ...arch,
    preprocess,
    labels,
    provenance: withStep({ source: { files: hashes } }, "import", { assumed }),
    metrics: {},
  };
  writeModelFolder(options.out, draft, tensors, ["f32"], {}, options.force);
  const [params, macs] = [countParams(arch, classes), countMacs(arch, classes)];
  say(
    `import: ${name}, ${arch.blocks.length} blocks of ${arch.embedDim}, ${si(params)} parameters, ${si(macs)} MACs → ${options.out}`,
  );
  return { params, macs };
}

type Stored = Map<string, StoredTensor>;
type Configs = Record<"config" | "preprocessor", Record<string, unknown>>;

function readCheckpoint(source: string): {
  tensors: Stored;
  configs: Configs;
  hashes: Record<string, string>;
  license?: string;
} {
  const stats = statSync(source, { throwIfNoEntry: false });
  if (!stats) throw new SlimViTError("bad-input", `${source}: no such file or folder.`);
  const dir = stats.isDirectory() ? source : dirname(source);
  const files = stats.isDirectory() ? weightFiles(dir) : [source];
  const tensors: Stored = new Map();
  const hashes: Record<string, string> = {};
  let license: string | undefined;
  for (const file of files) {
    const bytes = readFileSync(file);
    refusePickle(bytes, file);
    hashes[basename(file)] = sha256(bytes);
    for (const [name, tensor] of readSafetensors(bytes, file)) {
      if (tensors.has(name))
        throw new SlimViTError("bad-model", `${file}: tensor "${name}" is in another shard as well.`);
      tensors.set(name, tensor);
    }
    license ??= licenseOf(bytes);
  }
  const json = (name: string) => (stats.isDirectory() && existsSync(join(dir, name)) ? parseJson(join(dir, name)) : {});
  return {
    tensors,
    configs: { config: json("config.json"), preprocessor: json("preprocessor_config.json") },
    hashes,
    license,
  };
}

/** torch.save's zip, its older stream of pickles, or either by its name: no package of npm reads them. */
function refusePickle(bytes: Uint8Array, file: string): void {
  const starts = (...magic: number[]) => magic.every((byte, k) => bytes[k] === byte);
  const isPickle = starts(0x50, 0x4b, 3, 4) || starts(0x80, 2) || /\.(pth|pt|bin|ckpt|pkl)$/.test(file);
  if (!isPickle) return;
  const name = basename(file);
  throw new SlimViTError(
    "unsupported",
    `${file}: is a PyTorch pickle, which can run code when it is read. Convert it once: ` +
      `python -c "import argparse, torch, safetensors.torch as s; ` +
      // Training scripts leave their arguments beside the weights; torch 2.4 and later must be told that they are harmless.
      `getattr(torch.serialization, 'add_safe_globals', list)([argparse.Namespace]); ` +
      `d = torch.load('${name}', map_location='cpu', weights_only=True); d = d.get('model', d.get('state_dict', d)); ` +
      `s.save_file({k: v.detach().clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}, 'model.safetensors')".`,
  );
}

function weightFiles(dir: string): string[] {
  const index = join(dir, "model.safetensors.index.json");
  if (existsSync(index)) {
    const shards = [...new Set(Object.values((parseJson(index).weight_map ?? {}) as Record<string, string>))].sort();
    for (const shard of shards) {
      if (basename(shard) !== shard)
        throw new SlimViTError("bad-model", `${index}: names "${shard}", which is outside its folder.`);
      if (!existsSync(join(dir, shard)))
        throw new SlimViTError("bad-model", `${join(dir, shard)}: is missing; ${basename(index)} names it.`);
    }
    return shards.map((shard) => join(dir, shard));
  }
  const single = join(dir, "model.safetensors");
  if (existsSync(single)) return [single];
  const pickle = join(dir, "pytorch_model.bin");
  if (existsSync(pickle)) refusePickle(new Uint8Array(), pickle);
  throw new SlimViTError("bad-model", `${dir}: has neither model.safetensors nor model.safetensors.index.json.`);
}

function parseJson(path: string): Record<string, unknown> {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new SlimViTError("bad-model", `${path}: is not JSON (${messageOf(error)}).`);
  }
}

/** Checkpoints may state their licence. */
const licenseOf = (file: Uint8Array) => safetensorsMetadata(file).license?.match(/^[A-Za-z0-9][\w.+-]*/)?.[0];

function architecture(
  tensors: Stored,
  { config }: Configs,
  options: ImportOptions,
  source: string,
  assumed: string[],
): Architecture {
  const shape = (name: string, rank: number) => {
    const found = tensors.get(name)?.shape;
    if (!found)
      throw new SlimViTError(
        "bad-model",
        `${source}: tensor "${name}" is missing; expected timm or Hugging Face ViT names.`,
      );
    if (found.length !== rank)
      throw new SlimViTError(
        "bad-model",
        `${source}: tensor "${name}" has shape [${found}], expected ${rank} dimensions.`,
      );
    return found;
  };
  const [embedDim, channels, patchSize, patchWidth] = shape("patch_embed.proj.weight", 4);
  if (channels !== 3 || patchSize !== patchWidth) {
    throw new SlimViTError(
      "unsupported",
      `${source}: "patch_embed.proj.weight" is [${embedDim},${channels},${patchSize},${patchWidth}]; only square patches of RGB are supported.`,
    );
  }
  const prefixTokens = tensors.has("dist_token") ? 2 : 1;
  const patches = shape("pos_embed", 3)[1] - prefixTokens;
  const imageSize = options.imageSize ?? configuredSize(config) ?? squareSize(patches, patchSize, source);
  if ((imageSize[0] / patchSize) * (imageSize[1] / patchSize) !== patches) {
    throw new SlimViTError(
      "bad-option",
      `${source}: has position embeddings for ${patches} patches of ${patchSize} px; an image of ${imageSize[0]}×${imageSize[1]} has ${(imageSize[0] / patchSize) * (imageSize[1] / patchSize)}. Give --image-size HEIGHTxWIDTH.`,
    );
  }
  let depth = 0;
  while (tensors.has(`blocks.${depth}.norm1.weight`)) depth++;
  if (depth === 0)
    throw new SlimViTError(
      "bad-model",
      `${source}: tensor "blocks.0.norm1.weight" is missing; expected timm or Hugging Face ViT names.`,
    );
  const heads =
    options.heads ?? (config.num_attention_heads as number | undefined) ?? defaultHeads(embedDim, source, assumed);
  if (embedDim % heads)
    throw new SlimViTError("bad-option", `${source}: an embedding of ${embedDim} does not split into ${heads} heads.`);
  const layerNormEps = options.eps ?? (config.layer_norm_eps as number | undefined) ?? DEFAULTS.layerNormEps;
  if (options.eps === undefined && config.layer_norm_eps === undefined)
    assumed.push(`LayerNorm eps ${layerNormEps} (timm's; --eps)`);
  const arch = plainArchitecture({
    imageSize,
    patchSize,
    embedDim,
    headDim: embedDim / heads,
    layerNormEps,
    prefixTokens,
    blocks: [],
  });
  const keepIdx = Array.from({ length: denseTokens(arch) }, (_, token) => token);
  for (let i = 0; i < depth; i++) {
    const mlpHidden = shape(`blocks.${i}.mlp.fc1.weight`, 2)[0];
    arch.blocks.push({ headDims: Array(heads).fill(arch.headDim), mlpHidden, keepIdx, merge: 0 });
  }
  return arch;
}

function defaultHeads(embedDim: number, source: string, assumed: string[]): number {
  if (embedDim % DEFAULTS.headDim) {
    throw new SlimViTError(
      "bad-option",
      `${source}: the number of heads is not in the tensors, and ${embedDim} channels are no multiple of ${DEFAULTS.headDim}. Give --heads.`,
    );
  }
  assumed.push(`${embedDim / DEFAULTS.headDim} heads of ${DEFAULTS.headDim} channels (timm's; --heads)`);
  return embedDim / DEFAULTS.headDim;
}

function configuredSize(config: Record<string, unknown>): [number, number] | undefined {
  const size = config.image_size;
  if (typeof size === "number") return [size, size];
  if (Array.isArray(size) && size.length === 2) return size as [number, number];
  const input = (config.pretrained_cfg as Record<string, unknown> | undefined)?.input_size;
  return Array.isArray(input) && input.length === 3 ? [input[1], input[2]] : undefined;
}

function squareSize(patches: number, patchSize: number, source: string): [number, number] {
  const side = Math.sqrt(patches) * patchSize;
  if (!Number.isInteger(side))
    throw new SlimViTError(
      "bad-option",
      `${source}: ${patches} patches make no square. Give --image-size HEIGHTxWIDTH.`,
    );
  return [side, side];
}

/** Every expected tensor in f32; one that is missing, misshapen or left over is an error. */
function collect(stored: Stored, arch: Architecture, classes: number, source: string): Tensors {
  const rest = new Map(stored);
  const tensors: Tensors = new Map();
  for (const [name, shape] of tensorShapes(arch, classes)) {
    const tensor = rest.get(name);
    if (!tensor && name.endsWith("attn.qkv.bias")) {
      tensors.set(name, { dtype: "F32", shape, data: new Float32Array(shape[0]) }); // qkv_bias=False
      continue;
    }
    if (!tensor) throw new SlimViTError("bad-model", `${source}: tensor "${name}" is missing.`);
    if (tensor.shape.join() !== shape.join()) {
      throw new SlimViTError(
        "bad-model",
        `${source}: tensor "${name}" has shape [${tensor.shape}], expected [${shape}].`,
      );
    }
    const data = widen(tensor, name, source);
    if (!data.every(Number.isFinite))
      throw new SlimViTError("bad-model", `${source}: tensor "${name}" holds NaN or Inf.`);
    tensors.set(name, { dtype: "F32", shape, data });
    rest.delete(name);
  }
  foldLayerScale(tensors, rest, arch, source);
  const [unknown] = rest.keys();
  if (unknown !== undefined) {
    throw new SlimViTError(
      "unsupported",
      `${source}: tensor "${unknown}" belongs to no plain ViT or DeiT${rest.size > 1 ? ` (nor do ${rest.size - 1} more)` : ""}.`,
    );
  }
  return tensors;
}

/** LayerScale multiplies a branch's output channel by channel: folded into the rows of the linear before it. */
function foldLayerScale(tensors: Tensors, rest: Stored, arch: Architecture, source: string): void {
  arch.blocks.forEach((_, i) => {
    for (const [scale, layer] of [
      ["ls1.gamma", "attn.proj"],
      ["ls2.gamma", "mlp.fc2"],
    ]) {
      const name = `blocks.${i}.${scale}`;
      const gamma = rest.get(name);
      if (!gamma) continue;
      const factors = widen(gamma, name, source);
      for (const part of ["weight", "bias"]) {
        const { data } = tensors.get(`blocks.${i}.${layer}.${part}`)!;
        const row = data.length / arch.embedDim;
        for (let k = 0; k < data.length; k++) data[k] *= factors[Math.floor(k / row)];
      }
      rest.delete(name);
    }
  });
}

function widen({ dtype, data }: StoredTensor, name: string, source: string): Float32Array {
  if (dtype === "F32") return Float32Array.from(data as Float32Array);
  if (dtype === "F64") return Float32Array.from(data as Float64Array);
  if (dtype === "F16") return decodeFloat16(data as Uint16Array);
  if (dtype === "BF16") return new Float32Array(Uint32Array.from(data as Uint16Array, (bits) => bits << 16).buffer);
  throw new SlimViTError("unsupported", `${source}: tensor "${name}" has dtype ${dtype}; expected a float type.`);
}

function readLabels(file: string | undefined, { config }: Configs, classes: number, assumed: string[]): Label[] {
  if (file) {
    if (!existsSync(file)) throw new SlimViTError("bad-input", `${file}: no such file.`);
    const lines = readFileSync(file, "utf8").split(/\r?\n/).filter(Boolean);
    if (lines.length !== classes)
      throw new SlimViTError("bad-input", `${file}: has ${lines.length} lines; the model has ${classes} classes.`);
    return shortNames(lines.map((line) => line.split("\t")).map(([id, names]) => ({ id, label: names ?? id })));
  }
  const names = config.id2label as Record<string, string> | undefined;
  if (names && Object.keys(names).length === classes) {
    return shortNames(Array.from({ length: classes }, (_, k) => ({ id: String(k), label: names[k] })));
  }
  assumed.push(`the labels "class 0" to "class ${classes - 1}" (--labels classes.tsv)`);
  return Array.from({ length: classes }, (_, k) => ({ id: String(k), label: `class ${k}` }));
}

/** The first of several comma-separated names, unless another class has the same one. */
function shortNames(labels: Label[]): Label[] {
  const first = labels.map(({ label }) => label.split(",")[0].trim());
  return labels.map(({ id, label }, k) => ({
    id,
    label: first.indexOf(first[k]) === first.lastIndexOf(first[k]) ? first[k] : label,
  }));
}

function preprocessing(arch: Architecture, configs: Configs, options: ImportOptions, assumed: string[]): Preprocess {
  const { config, preprocessor } = configs;
  const timm = (config.pretrained_cfg ?? {}) as Record<string, unknown>;
  const take: Take = <T>(what: string, flag: string, ...values: (T | undefined)[]): T => {
    const found = values.slice(0, -1).find((value) => value !== undefined);
    if (found === undefined) assumed.push(`${what} ${JSON.stringify(values.at(-1))} (timm's; ${flag})`);
    return found ?? values.at(-1)!;
  };
  type Triple = [number, number, number];
  const resample = preprocessor.resample;
  return {
    resize: squashed(arch, preprocessor) ?? shorterSide(arch, configs, take),
    crop: arch.imageSize,
    interpolation: timm.interpolation === "bilinear" || resample === 2 ? "bilinear" : "bicubic",
    mean: take(
      "mean",
      "--mean",
      options.mean,
      preprocessor.image_mean as Triple,
      timm.mean as Triple,
      DEFAULTS.mean as Triple,
    ),
    std: take(
      "std",
      "--std",
      options.std,
      preprocessor.image_std as Triple,
      timm.std as Triple,
      DEFAULTS.std as Triple,
    ),
  };
}

type Take = <T>(what: string, flag: string, ...values: (T | undefined)[]) => T;

/** Hugging Face's `size: { height, width }`, in old files one number: both sides, whatever the picture's shape. */
function squashed(
  { imageSize }: Architecture,
  { size, do_center_crop }: Record<string, unknown>,
): [number, number] | undefined {
  const { height, width } = (typeof size === "number" ? { height: size, width: size } : (size ?? {})) as {
    height?: number;
    width?: number;
  };
  if (!height || !width) return undefined;
  return do_center_crop ? [Math.max(height, imageSize[0]), Math.max(width, imageSize[1])] : imageSize;
}

function shorterSide({ imageSize }: Architecture, { config, preprocessor }: Configs, take: Take): number {
  const shorter = Math.min(...imageSize);
  const timm = (config.pretrained_cfg ?? {}) as { crop_pct?: number };
  const edge = (preprocessor.size as Record<string, number> | undefined)?.shortest_edge;
  const share = take("crop share", "config.json", timm.crop_pct, edge && shorter / edge, DEFAULTS.cropPct);
  return Math.max(Math.floor(shorter / share), ...imageSize);
}
