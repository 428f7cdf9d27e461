/** Hugging Face's ViT and DeiT tensor names → timm's. */
import { SlimViTError } from "../../src/errors.ts";
import type { StoredTensor } from "../../src/format/safetensors.ts";

type Stored = Map<string, StoredTensor>;

export function isHuggingFace(tensors: Stored): boolean {
  return [...tensors.keys()].some((name) => name.includes("encoder.layer.") || name.endsWith("embeddings.cls_token"));
}

const NAMES: [RegExp, string][] = [
  [/^embeddings\.cls_token$/, "cls_token"],
  [/^embeddings\.distillation_token$/, "dist_token"],
  [/^embeddings\.position_embeddings$/, "pos_embed"],
  [/^embeddings\.patch_embeddings\.projection\./, "patch_embed.proj."],
  [/^encoder\.layer\.(\d+)\.attention\.output\.dense\./, "blocks.$1.attn.proj."],
  [/^encoder\.layer\.(\d+)\.intermediate\.dense\./, "blocks.$1.mlp.fc1."],
  [/^encoder\.layer\.(\d+)\.output\.dense\./, "blocks.$1.mlp.fc2."],
  [/^encoder\.layer\.(\d+)\.layernorm_before\./, "blocks.$1.norm1."],
  [/^encoder\.layer\.(\d+)\.layernorm_after\./, "blocks.$1.norm2."],
  [/^layernorm\./, "norm."],
  [/^(cls_)?classifier\./, "head."],
  [/^distillation_classifier\./, "head_dist."],
];

const QKV = /^encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)$/;

/** @throws SlimViTError `bad-model` when a block has only some of query, key and value */
export function fromHuggingFace(stored: Stored, source: string): Stored {
  const out: Stored = new Map();
  const parts = new Map<string, Record<string, StoredTensor>>();
  for (const [fullName, tensor] of stored) {
    const name = fullName.replace(/^(vit|deit)\./, "");
    const qkv = name.match(QKV);
    if (qkv) {
      const key = `blocks.${qkv[1]}.attn.qkv.${qkv[3]}`;
      parts.set(key, { ...parts.get(key), [qkv[2]]: tensor });
      continue;
    }
    if (/^pooler\.|^embeddings\.mask_token$/.test(name)) continue; // unused by the classifier
    const rule = NAMES.find(([pattern]) => pattern.test(name));
    out.set(rule ? name.replace(rule[0], rule[1]) : fullName, tensor);
  }
  for (const [key, { query, key: keys, value }] of parts) {
    if (!query || !keys || !value)
      throw new SlimViTError("bad-model", `${source}: "${key}" lacks its query, key or value part.`);
    out.set(key, concatRows([query, keys, value], key, source));
  }
  if (out.has("dist_token") && !out.has("head_dist.weight") && out.has("head.weight")) readClassTokenOnly(out, source);
  return out;
}

function concatRows(tensors: StoredTensor[], name: string, source: string): StoredTensor {
  const [{ dtype, shape, data }] = tensors;
  if (tensors.some((t) => t.dtype !== dtype || t.shape.join() !== shape.join())) {
    throw new SlimViTError("bad-model", `${source}: query, key and value of "${name}" differ in shape or dtype.`);
  }
  const Type = data.constructor as Float32ArrayConstructor;
  const joined = new Type(data.length * 3);
  tensors.forEach((t, k) => {
    joined.set(t.data as Float32Array, k * data.length);
  });
  return { dtype, shape: [shape[0] * 3, ...shape.slice(1)], data: joined };
}

/**
 * DeiTForImageClassification has a distillation token but classifies by the class token alone. Our two-token models
 * average two heads: (2a + 0)/2 is a, exactly.
 */
function readClassTokenOnly(out: Stored, source: string): void {
  for (const part of ["weight", "bias"]) {
    const head = out.get(`head.${part}`);
    if (!head) continue;
    if (head.dtype !== "F32")
      throw new SlimViTError(
        "unsupported",
        `${source}: a one-headed distilled DeiT must be stored in F32, not ${head.dtype}.`,
      );
    out.set(`head.${part}`, { ...head, data: (head.data as Float32Array).map((v) => 2 * v) });
    out.set(`head_dist.${part}`, { ...head, data: new Float32Array(head.data.length) });
  }
}
