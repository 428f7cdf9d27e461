/** A checkpoint on disk: one file or shards, its configs, and the hash of each file. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { readSafetensors } from "../../src/format/safetensors.ts";
import { sha256 } from "../models/folders.ts";
import { safetensorsMetadata } from "../models/metadata.ts";
import { refuseAdapters, refuseOtherKinds } from "./fileKinds.ts";
import type { Stored } from "./weights.ts";

export type Json = Record<string, unknown>;

export interface Configs {
  config: Json;
  preprocessor: Json;
}

export interface Checkpoint {
  tensors: Stored;
  configs: Configs;
  /** sha256 of the weights files, by their names */
  hashes: Record<string, string>;
  license?: string;
}

/** @param source a .safetensors file, or a folder with one, sharded or not; configs beside the file count too */
export function readCheckpoint(source: string): Checkpoint {
  const stats = statSync(source, { throwIfNoEntry: false });
  if (!stats) throw new SlimViTError("bad-input", `${source}: no such file or folder.`);
  const dir = stats.isDirectory() ? source : dirname(source);
  const files = stats.isDirectory() ? weightFiles(dir) : [source];
  const tensors: Stored = new Map();
  const hashes: Record<string, string> = {};
  let license: string | undefined;
  for (const file of files) {
    const bytes = readFileSync(file);
    refuseOtherKinds(bytes, file);
    hashes[basename(file)] = sha256(bytes);
    for (const [name, tensor] of readSafetensors(bytes, file)) {
      if (tensors.has(name))
        throw new SlimViTError("bad-model", `${file}: tensor "${name}" is in another shard as well.`);
      tensors.set(name, tensor);
    }
    license ??= safetensorsMetadata(bytes).license?.match(/^[A-Za-z0-9][\w.+-]*/)?.[0];
  }
  refuseAdapters([...tensors.keys()], source);
  const configs = { config: configFile(dir), preprocessor: json(join(dir, "preprocessor_config.json")) };
  return { tensors, configs, hashes, license: license ?? licenceOf(configs.config, dir) };
}

const json = (path: string): Json => (existsSync(path) ? parseJson(path) : {});

/** OpenCLIP's config names timm's architecture; its shape is timm's own config's then. */
function configFile(dir: string): Json {
  const own = join(dir, "config.json");
  if (existsSync(own)) return parseJson(own);
  const clip = json(join(dir, "open_clip_config.json"));
  const model = clip.model_cfg as { quick_gelu?: boolean; vision_cfg?: Json } | undefined;
  const { preprocess_cfg: preprocess = {} } = clip as { preprocess_cfg?: Json };
  if (!model) return {};
  const vision = model.vision_cfg ?? {};
  return {
    open_clip: model,
    ...(vision.timm_model_name ? { architecture: vision.timm_model_name, global_pool: vision.timm_pool } : {}),
    pretrained_cfg: {
      mean: preprocess.mean,
      std: preprocess.std,
      interpolation: preprocess.interpolation,
      crop_pct: 1,
    },
  };
}

function weightFiles(dir: string): string[] {
  const index = ["model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.json"]
    .map((name) => join(dir, name))
    .find(existsSync);
  if (index) {
    const shards = [...new Set(Object.values((parseJson(index).weight_map ?? {}) as Record<string, string>))].sort();
    for (const shard of shards) {
      if (basename(shard) !== shard)
        throw new SlimViTError("bad-model", `${index}: names "${shard}", which is outside its folder.`);
      if (!existsSync(join(dir, shard)))
        throw new SlimViTError("bad-model", `${join(dir, shard)}: is missing; ${basename(index)} names it.`);
    }
    return shards.map((shard) => join(dir, shard));
  }
  for (const name of ["model.safetensors", "open_clip_model.safetensors"]) {
    if (existsSync(join(dir, name))) return [join(dir, name)];
  }
  const adapter = join(dir, "adapter_model.safetensors");
  if (existsSync(adapter))
    throw new SlimViTError(
      "unsupported",
      `${adapter}: is an adapter (LoRA) without its model; merge it first (peft: model.merge_and_unload()) and save that.`,
    );
  for (const name of [
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
    "flax_model.msgpack",
    "tf_model.h5",
    "model.onnx",
  ]) {
    if (existsSync(join(dir, name))) refuseOtherKinds(readFileSync(join(dir, name)), join(dir, name));
  }
  throw new SlimViTError("bad-model", `${dir}: has neither model.safetensors nor model.safetensors.index.json.`);
}

function parseJson(path: string): Json {
  let read: unknown;
  try {
    read = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new SlimViTError("bad-model", `${path}: is not JSON (${messageOf(error)}).`);
  }
  if (typeof read === "object" && read !== null && !Array.isArray(read)) return read as Json;
  throw new SlimViTError(
    "bad-model",
    `${path}: is ${JSON.stringify(read).slice(0, 40)}; expected an object of named values.`,
  );
}

/** The config's, timm's of the weights, or the model card's front matter. */
function licenceOf(config: Json, dir: string): string | undefined {
  const timm = (config.pretrained_cfg ?? {}) as Json;
  const stated = [config.license, timm.license].find((value) => typeof value === "string" && value !== "");
  if (stated) return stated as string;
  const card = join(dir, "README.md");
  if (!existsSync(card)) return undefined;
  return readFileSync(card, "utf8").match(/^---\n[\s\S]*?^license:\s*["']?([A-Za-z0-9][\w.+-]*)/m)?.[1];
}
