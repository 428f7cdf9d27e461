/** Checkpoints → dense model folders: names, shapes, shards, configs, and what is refused. */
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import type { Architecture, Model, Tensors } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { writeSafetensors } from "../../src/format/safetensors.ts";
import { type ImportOptions, importModel } from "../../tools/checkpoints/import.ts";
import { readModelFolder } from "../../tools/models/folders.ts";
import { CLASSES, expectFailure, randomTensors, tinyArchitecture, workplace, writeCheckpoint } from "./fixtures.ts";

const at = workplace("import");
const tensors = randomTensors(tinyArchitecture(), CLASSES.length, 1);
let models = 0;

/** @returns the model that was written */
async function imported(source: string, options: Partial<ImportOptions> = {}): Promise<Model> {
  const out = at(`model-${models++}`);
  await importModel(source, { ...options, out });
  return readModelFolder(out);
}

function expectTensors(model: Model, wanted: Tensors): void {
  expect([...model.tensors.keys()].sort()).toEqual([...wanted.keys()].sort());
  const bytes = (tensors: Tensors, name: string) => new Uint8Array(float32(tensors, name).slice().buffer);
  // Millions of numbers: vitest would look at each of them for seconds.
  const different = [...wanted.keys()].filter(
    (name) => Buffer.compare(bytes(model.tensors, name), bytes(wanted, name)) !== 0,
  );
  expect(different).toEqual([]);
}

/** @param files by name: JSON, or tensors */
function writeFolder(name: string, files: Record<string, object | Tensors>): string {
  mkdirSync(at(name), { recursive: true });
  for (const [file, content] of Object.entries(files))
    writeFileSync(at(name, file), content instanceof Map ? writeSafetensors(content) : JSON.stringify(content));
  return at(name);
}

describe("shapes of the ViT and DeiT family", () => {
  /** One block whose MLP is narrow: what is read from the tensors is as in the large ones. */
  const shape = (embedDim: number, overrides: Partial<Architecture> = {}): Architecture => {
    const arch = tinyArchitecture({ imageSize: [224, 224], patchSize: 16, embedDim, headDim: 64, ...overrides });
    return { ...arch, blocks: arch.blocks.slice(0, 1) };
  };
  test.each<[string, Architecture]>([
    ["DeiT-Ti", shape(192)],
    ["DeiT-S", shape(384)],
    ["DeiT-B", shape(768)],
    ["DeiT-Ti at 384 px", shape(192, { imageSize: [384, 384] })],
    ["distilled DeiT-Ti", shape(192, { prefixTokens: 2 })],
    ["ViT-S with patches of 32", shape(384, { patchSize: 32 })],
    ["a picture that is not square", shape(192, { imageSize: [96, 160] })],
  ])("%s, by timm's names and by Hugging Face's", async (what, arch) => {
    const wanted = randomTensors(arch, 4, 2);
    const { imageSize, patchSize, embedDim, headDim, prefixTokens, blocks } = arch;
    const square = imageSize[0] === imageSize[1];
    const timm = at(`${what}.safetensors`);
    writeCheckpoint(timm, wanted);
    // Of a checkpoint of timm's the tensors tell all but the heads, which have 64 channels, and the sides of what is not square.
    if (!square)
      await expect(imported(timm)).rejects.toThrow(/60 patches do not form a square\. Give --image-size HEIGHTxWIDTH/);
    const huggingFace = writeFolder(`${what}-hf`, {
      "model.safetensors": toHuggingFace(wanted),
      "config.json": { num_attention_heads: embedDim / 64, image_size: square ? imageSize[0] : imageSize },
    });
    for (const model of [await imported(timm, square ? {} : { imageSize }), await imported(huggingFace)]) {
      expect(model.manifest).toMatchObject({ imageSize, patchSize, embedDim, headDim, prefixTokens, blocks });
      expect(model.manifest.labels).toHaveLength(4);
      expect(model.manifest.preprocess.crop).toEqual(imageSize);
      expectTensors(model, wanted);
    }
  });

  test("a distilled DeiT of Hugging Face's with one classifier gives that classifier's logits", async () => {
    const arch = shape(64, { imageSize: [32, 32], prefixTokens: 2 });
    const stored = toHuggingFace(randomTensors(arch, 4, 2));
    for (const part of ["weight", "bias"]) {
      stored.set(`classifier.${part}`, stored.get(`cls_classifier.${part}`)!);
      for (const name of ["cls_classifier", "distillation_classifier"]) stored.delete(`${name}.${part}`);
    }
    const { manifest, tensors } = await imported(writeFolder("one-head", { "model.safetensors": stored }));
    // Nothing reads the distillation token at the end: it is one more register.
    expect(manifest).toMatchObject({ prefixTokens: 2, distilled: false, pooling: "class" });
    expect(float32(tensors, "reg_token")).toEqual(stored.get("vit.embeddings.distillation_token")!.data);
    expect(tensors.has("head_dist.weight")).toBe(false);
    for (const part of ["weight", "bias"])
      expect(float32(tensors, `head.${part}`)).toEqual(stored.get(`classifier.${part}`)!.data);
  });
});

describe("a checkpoint in shards", () => {
  const names = [...tensors.keys()];
  const shardOf = (k: number) => `model-0000${k < 20 ? 1 : 2}-of-00002.safetensors`;
  const weight_map = Object.fromEntries(names.map((name, k) => [name, shardOf(k)]));
  const shards = Object.fromEntries(
    [0, 20].map((first) => [
      shardOf(first),
      new Map([...tensors].filter((_, k) => shardOf(k) === shardOf(first))) as Tensors,
    ]),
  );
  const config = { "config.json": { num_attention_heads: 2 }, "model.safetensors.index.json": { weight_map } };

  test("is the model of all of them, and each one's hash is kept", async () => {
    const model = await imported(writeFolder("sharded", { ...config, ...shards }));
    expectTensors(model, tensors);
    const { files } = model.manifest.provenance.source as { files: Record<string, string> };
    expect(Object.keys(files)).toEqual([shardOf(0), shardOf(20)]);
  });

  test.each<[string, Record<string, object>, RegExp]>([
    [
      "a missing shard",
      { [shardOf(0)]: shards[shardOf(0)] },
      /model-00002-of-00002\.safetensors: is missing; model\.safetensors\.index\.json names it/,
    ],
    [
      "a shard outside of the folder",
      { ...shards, "model.safetensors.index.json": { weight_map: { norm: "../other.safetensors" } } },
      /index\.json: names "\.\.\/other\.safetensors", which is outside its folder/,
    ],
    [
      "a tensor in two shards",
      { [shardOf(0)]: tensors, [shardOf(20)]: shards[shardOf(20)] },
      /model-00002-of-00002\.safetensors: tensor ".*" is in another shard as well/,
    ],
  ])("with %s is one sentence", async (what, files, message) => {
    const folder = writeFolder(what.replaceAll(" ", "-"), { ...config, ...files });
    await expect(imported(folder)).rejects.toThrow(message);
  });
});

describe("Hugging Face's configs", () => {
  test("have the labels", async () => {
    const id2label = { 0: "a", 1: "b", 2: "c" };
    const config = { num_attention_heads: 2, image_size: 32, layer_norm_eps: 1e-5, id2label };
    const { manifest } = await imported(
      writeFolder("labelled", { "model.safetensors": toHuggingFace(tensors), "config.json": config }),
    );
    expect(manifest.labels.map(({ label }) => label)).toEqual(["a", "b", "c"]);
    expect(manifest.layerNormEps).toBe(1e-5);
  });

  test.each<[string, object, number | [number, number]]>([
    ["both sides", { do_resize: true, size: { height: 32, width: 32 } }, [32, 32]],
    ["both sides, one number", { size: 32, do_center_crop: false }, [32, 32]],
    ["both sides, then a crop", { size: { height: 40, width: 40 }, do_center_crop: true, crop_size: 32 }, [40, 40]],
    ["the shorter side", { size: { shortest_edge: 36 }, do_center_crop: true }, 36],
  ])("takes Hugging Face's resize of %s as it is", async (what, preprocessor, resize) => {
    const folder = at(`hf-${what.replaceAll(/\W+/g, "-")}`);
    mkdirSync(folder);
    writeCheckpoint(join(folder, "model.safetensors"), tensors);
    writeFileSync(join(folder, "config.json"), JSON.stringify({ num_attention_heads: 2 }));
    writeFileSync(join(folder, "preprocessor_config.json"), JSON.stringify(preprocessor));
    expect((await imported(folder)).manifest.preprocess).toMatchObject({ resize, crop: [32, 32] });
  });
});

describe("what is no checkpoint of such a model is one sentence, exit 1, nothing written:", () => {
  test.each<[string, (t: Tensors) => void, RegExp]>([
    ["a missing tensor", (t) => t.delete("blocks.1.mlp.fc2.weight"), /tensor "blocks\.1\.mlp\.fc2\.weight" is missing/],
    [
      "a wrong name",
      (t) => void t.set("blocks.1.attn.gate", { dtype: "F32", shape: [1], data: new Float32Array(1) }),
      /"blocks\.1\.attn\.gate" belongs to no plain ViT/,
    ],
    [
      "a wrong shape",
      (t) => void t.set("norm.bias", { dtype: "F32", shape: [7], data: new Float32Array(7) }),
      /"norm\.bias" has shape \[7\], expected \[16\]/,
    ],
    [
      "a NaN",
      (t) => void t.set("norm.bias", { dtype: "F32", shape: [16], data: new Float32Array(16).fill(NaN) }),
      /"norm\.bias" holds NaN/,
    ],
  ])("%s", async (what, damage, message) => {
    const broken: Tensors = new Map(tensors);
    damage(broken);
    const file = at(`${what.replaceAll(" ", "-")}.safetensors`);
    writeCheckpoint(file, broken);
    const out = at("never");
    await expectFailure(["import", file, "-o", out, "--heads", "2"], 1, message);
    expect(existsSync(out)).toBe(false);
  });

  /** @returns its path */
  const pickle = (name: string, content: string) => {
    mkdirSync(dirname(at("pickles", name)), { recursive: true });
    writeFileSync(at("pickles", name), content, "latin1");
    return at("pickles", name);
  };
  test.each<[string, () => string, RegExp]>([
    [
      "a PyTorch pickle, as torch.save has written it since 1.6",
      () => pickle("deit.pth", "PK\u0003\u0004 archive/data.pkl"),
      /deit\.pth: is a PyTorch pickle, .* Convert it once: python -c "/,
    ],
    [
      "a PyTorch pickle from before that, under a name that hides it",
      () => pickle("old.safetensors", "\u0080\u0002\u008a\nl\u00fc\u009cF\u00f9 j\u00a8P\u0019."),
      /old\.safetensors: is a PyTorch pickle, /,
    ],
    [
      "a Hugging Face folder with a pickle alone",
      () => dirname(pickle("hf/pytorch_model.bin", "PK")),
      /pytorch_model\.bin: is a PyTorch pickle, /,
    ],
  ])("%s", async (_, source, message) => {
    await expectFailure(["import", source(), "-o", at("never")], 1, message);
  });
});

/** Names as in ViTForImageClassification and DeiTForImageClassificationWithTeacher. */
function toHuggingFace(tensors: Tensors): Tensors {
  const out: Tensors = new Map();
  for (const [name, tensor] of tensors) {
    const block = name.match(/^blocks\.(\d+)\.(.*)$/);
    if (!block) {
      out.set(
        name
          .replace(/^cls_token/, "vit.embeddings.cls_token")
          .replace(/^dist_token/, "vit.embeddings.distillation_token")
          .replace(/^pos_embed/, "vit.embeddings.position_embeddings")
          .replace(/^patch_embed\.proj/, "vit.embeddings.patch_embeddings.projection")
          .replace(/^norm/, "vit.layernorm")
          .replace(/^head_dist/, "distillation_classifier")
          .replace(/^head/, tensors.has("head_dist.weight") ? "cls_classifier" : "classifier"),
        tensor,
      );
      continue;
    }
    const prefix = `vit.encoder.layer.${block[1]}`;
    const qkv = block[2].match(/^attn\.qkv\.(weight|bias)$/);
    if (qkv) {
      const rows = tensor.shape[0] / 3;
      ["query", "key", "value"].forEach((part, k) => {
        const each = tensor.data.length / 3;
        const data = (tensor.data as Float32Array).slice(k * each, (k + 1) * each);
        out.set(`${prefix}.attention.attention.${part}.${qkv[1]}`, {
          dtype: "F32",
          shape: [rows, ...tensor.shape.slice(1)],
          data,
        });
      });
      continue;
    }
    const renamed = block[2]
      .replace("attn.proj", "attention.output.dense")
      .replace("mlp.fc1", "intermediate.dense")
      .replace("mlp.fc2", "output.dense")
      .replace("norm1", "layernorm_before")
      .replace("norm2", "layernorm_after");
    out.set(`${prefix}.${renamed}`, tensor);
  }
  return out;
}
