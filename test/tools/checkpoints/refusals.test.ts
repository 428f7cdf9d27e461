/** Nothing silently wrong: what import cannot follow is refused by name, in one sentence that says what to do. */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { describe, expect, test } from "vitest";
import type { Tensors } from "../../../src/format/model.ts";
import { convertCheckpoint, type ImportOptions } from "../../../tools/checkpoints/import.ts";
import { familyCase, familyTensors, writeFamilyCheckpoint } from "../../fixtures/family/numbers.ts";
import { workplace } from "../fixtures.ts";

const at = workplace("refusals");
const TIMM = familyCase("timm: ViT");
const HF = familyCase("transformers: ViT");
let folders = 0;

function convert(
  of: typeof TIMM,
  config: object,
  edit: (t: Tensors) => void = () => {},
  options: Partial<ImportOptions> = {},
) {
  const tensors = familyTensors(of);
  edit(tensors);
  const dir = writeFamilyCheckpoint(at(`source-${folders++}`), of, tensors, { ...of.config, ...config });
  return convertCheckpoint(dir, options);
}

const tensor = (...shape: number[]) => ({
  dtype: "F32" as const,
  shape,
  data: new Float32Array(shape.reduce((a, b) => a * b, 1)),
});
const args = (more: object) => ({ model_args: { ...(TIMM.config.model_args as object), ...more } });

describe("timm's config:", () => {
  test.each<[string, object, RegExp]>([
    ["an architecture with windows", { architecture: "swin_tiny_patch4_window7_224" }, /Swin has windows that shift/],
    [
      "one with a network before its patches",
      { architecture: "vit_small_r26_s32_224" },
      /A hybrid ViT has a convolutional network/,
    ],
    ["one with norms after its branches", { architecture: "vit_base_patch16_rpn_224" }, /norms after its branches/],
    [
      "one with a norm inside its attention",
      { architecture: "beit3_base_patch16_224" },
      /norm between the heads and their projection/,
    ],
    ["one with RMSNorm", { architecture: "vit_base_patch16_xp_224" }, /with RMSNorm/],
    [
      "one of another kind",
      { architecture: "resnet50" },
      /resnet50 is no vision transformer|resnet50 .*no vision transformer/,
    ],
    ["pooling by the maximum", args({ global_pool: "max" }), /global_pool is "max"; expected "token", "avg" or "map"/],
    ["an activation that it does not know", args({ act_layer: "mish" }), /act_layer is "mish"; expected one of gelu/],
    ["a norm layer that it does not know", args({ norm_layer: "rmsnorm" }), /model_args\.norm_layer is "rmsnorm"/],
    [
      "an argument that it does not follow",
      args({ block_fn: null }),
      /model_args has block_fn null, which import does not support/,
    ],
    [
      "a crop mode that it does not know",
      { pretrained_cfg: { crop_mode: "corner" } },
      /crop_mode is "corner"; expected "center"/,
    ],
    [
      "an interpolation that it does not know",
      { pretrained_cfg: { interpolation: "random" } },
      /interpolation is "random"; expected one of nearest/,
    ],
  ])("%s", (_, config, message) => {
    expect(() => convert(TIMM, config)).toThrow(message);
  });
});

describe("transformers' config:", () => {
  test.each<[string, object, RegExp]>([
    ["a type with windows", { model_type: "swin" }, /Swin has windows/],
    ["a detector", { model_type: "yolos" }, /An object detector has boxes/],
    ["a type that nobody knows", { model_type: "vit_next" }, /model_type is "vit_next"; expected one of vit, deit/],
    ["a regression", { problem_type: "regression" }, /problem_type is "regression"; SlimViT's heads are classifiers/],
    ["an activation that it does not know", { hidden_act: "mish" }, /hidden_act is "mish"/],
  ])("%s", (_, config, message) => {
    expect(() => convert(HF, config)).toThrow(message);
  });

  test("one output, which is a regression where nothing says otherwise", () => {
    const one = (t: Tensors) => t.set("classifier.weight", tensor(1, 16)).set("classifier.bias", tensor(1));
    expect(() => convert(HF, {}, one)).toThrow(/has one output, which transformers takes for a regression/);
    const { network } = convert(HF, { problem_type: "multi_label_classification" }, one);
    expect(network).toMatchObject({ classes: 1, arch: { head: { scores: "sigmoid" } } });
  });

  test.each<[string, object, RegExp]>([
    ["fewer blocks than the checkpoint has", { num_hidden_layers: 1 }, /has 2 blocks, and its config says 1/],
    ["more blocks than the checkpoint has", { num_hidden_layers: 3 }, /has 2 blocks, and its config says 3/],
    ["heads below one", { num_attention_heads: -2 }, /an embedding of 16 does not split into -2 heads/],
    ["no heads", { num_attention_heads: 0 }, /an embedding of 16 does not split into 0 heads/],
  ])("a config with %s", (_, config, message) => {
    expect(() => convert(HF, config)).toThrow(message);
  });

  test("a timm config with other blocks or heads that are no number", () => {
    const args = TIMM.config.model_args as object;
    expect(() => convert(TIMM, { model_args: { ...args, depth: 12 } })).toThrow(/has 2 blocks, and its config says 12/);
    expect(() => convert(TIMM, { model_args: { ...args, num_heads: "2" } })).toThrow(
      /num_heads is "2"; expected a number/,
    );
  });

  test.each(["null", "[]", '"vit"'])("a config.json that is %s", (text) => {
    const dir = writeFamilyCheckpoint(at(`source-${folders++}`), HF, familyTensors(HF), {});
    writeFileSync(`${dir}/config.json`, text);
    expect(() => convertCheckpoint(dir, {})).toThrow(`config.json: is ${text}; expected an object of named values.`);
  });

  test("one output of a softmax, whatever library saved it", () => {
    const one = (t: Tensors) => t.set("head.weight", tensor(1, 16)).set("head.bias", tensor(1));
    expect(() => convert(TIMM, {}, one)).toThrow(/has one output, .* whose softmax is always 1/);
    const { network } = convert(TIMM, { problem_type: "multi_label_classification" }, one);
    expect(network.arch.head).toEqual({ scores: "sigmoid" });
    const single = { problem_type: "single_label_classification" };
    const classifier = (t: Tensors) => t.set("classifier.weight", tensor(1, 16)).set("classifier.bias", tensor(1));
    expect(() => convert(HF, single, classifier)).toThrow(/whose softmax is always 1/);
  });

  test.each<[string, object, RegExp]>([
    [
      "channels in another order",
      { do_flip_channel_order: true },
      /do_flip_channel_order true, which swaps red and blue/,
    ],
    ["an offset", { rescale_offset: true }, /rescale_offset true, which shifts pixels/],
    ["a filter that Pillow has not", { resample: 9 }, /resample is 9; expected Pillow's 0 to 5/],
    ["two means", { image_mean: [0.5, 0.5] }, /image_mean is \[0\.5,0\.5\]; expected three numbers/],
    [
      "a size that is neither of two kinds",
      { size: { longest_edge: 32 } },
      /size \{"longest_edge":32\}, which is neither a shorter side/,
    ],
    ["a side of nothing", { size: { shortest_edge: 0 } }, /size \{"shortest_edge":0\}/],
  ])("a preprocessor with %s", (_, preprocessor, message) => {
    const dir = writeFamilyCheckpoint(at(`source-${folders++}`), HF);
    writeFileSync(`${dir}/preprocessor_config.json`, JSON.stringify(preprocessor));
    expect(() => convertCheckpoint(dir, {})).toThrow(message);
  });
});

test("a refusal names the network as its config does, once", () => {
  const gate = (t: Tensors) => t.set("blocks.0.attn.gate.weight", tensor(16, 16));
  const architecture = "vit_gated_patch8_32";
  expect(() => convert(TIMM, { architecture }, gate)).toThrow(
    /belongs to no plain ViT or DeiT\. The config calls this network vit_gated_patch8_32\.$/,
  );
  expect(() => convert(HF, { model_type: "swin", architectures: ["SwinModel"] })).toThrow(
    /Swin has windows .* \(swin, SwinModel\); SlimViT imports plain [^.]*\.$/,
  );
});

describe("tensors:", () => {
  const patches = "patch_embed.proj.weight";
  test.each<[string, (t: Tensors) => void, RegExp]>([
    ["one channel", (t) => t.set(patches, tensor(16, 1, 8, 8)), /\[16,1,8,8\]; only square patches of RGB/],
    ["oblong patches", (t) => t.set(patches, tensor(16, 3, 8, 4)), /only square patches of RGB/],
    [
      "a gate on attention",
      (t) => t.set("blocks.0.attn.gate.weight", tensor(16, 16)),
      /"blocks\.0\.attn\.gate\.weight" belongs to no plain ViT/,
    ],
    [
      "a norm inside a plain MLP",
      (t) => t.set("blocks.0.mlp.norm.weight", tensor(32)),
      /has a norm inside an MLP that is not SwiGLU/,
    ],
    [
      "a LoRA adapter",
      (t) => t.set("blocks.0.attn.qkv.lora_A.weight", tensor(4, 16)),
      /LoRA adapter .* merge it into its model first/,
    ],
    ["quantised weights", (t) => t.set("blocks.0.attn.qkv.qweight", tensor(4, 16)), /holds quantised weights/],
    ["a block too few", (t) => t.delete("blocks.0.norm1.weight"), /"blocks\.0\.norm1\.weight" is missing/],
    [
      "positions for no such grid",
      (t) => t.set("pos_embed", tensor(1, 24, 16)),
      /patches do not form a square\. Give --image-size/,
    ],
  ])("%s", (_, edit, message) => {
    expect(() => convert(TIMM, {}, edit)).toThrow(message);
  });

  test("rotary positions that only a config could tell", () => {
    const of = familyCase("timm: DINOv3");
    const dir = writeFamilyCheckpoint(at("no-config"), of, familyTensors(of), {});
    expect(() => convertCheckpoint(dir, {})).toThrow(
      /rotary positions are in no tensor; put timm's config\.json beside it/,
    );
  });
});

describe("flags:", () => {
  test("--heads may not contradict the config", () => {
    expect(() => convert(TIMM, {}, undefined, { heads: 4 })).toThrow(
      /--heads is 4 and its config says 2; leave --heads out/,
    );
    expect(convert(TIMM, {}, undefined, { heads: 2 }).network.arch.headDim).toBe(8);
  });

  test("--image-size must be of whole patches", () => {
    expect(() => convert(TIMM, {}, undefined, { imageSize: [40, 44] })).toThrow(
      /40×44 px does not divide into patches of 8 px/,
    );
  });
});

describe("files that are no checkpoint, by their first bytes:", () => {
  const zip = "PK\u0003\u0004";
  test.each<[string, string, string, RegExp]>([
    ["GGUF", "model.safetensors", "GGUF\u0003\0\0\0", /is a GGUF file, which holds quantised weights for llama\.cpp/],
    [
      "a pointer of Git LFS",
      "model.safetensors",
      "version https://git-lfs.github.com/spec/v1\n",
      /is a pointer of Git LFS, .*"git lfs pull"/,
    ],
    ["ONNX", "vit.safetensors", "\u0008\u0008\u0012\u0007pytorch", /is an ONNX graph/],
    ["npz", "vit.npz", `${zip} weights.npy`, /is a \.npz of NumPy/],
    ["npy", "vit.bin", "\u0093NUMPY\u0001\0", /is one array of NumPy/],
    ["HDF5", "model.h5", "\u0089HDF\r\n", /is an HDF5 file of Keras/],
    ["a web page", "model.safetensors", "<!DOCTYPE html><html>", /is a web page, not a checkpoint/],
    ["Flax", "flax_model.msgpack", "\u0081\u00a6params", /is a checkpoint of Flax/],
    ["TensorFlow Lite", "vit.tflite", "\u001c\0\0\0TFL3", /is a TensorFlow Lite model/],
    ["a pickle", "vit.pth", `${zip} archive/data.pkl`, /is a PyTorch pickle/],
  ])("%s", (kind, name, content, message) => {
    const file = at(kind.replaceAll(/\W/g, "-"), name);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, content, "latin1");
    expect(() => convertCheckpoint(file, {})).toThrow(message);
  });

  test("a folder with an adapter alone", () => {
    mkdirSync(at("adapter"));
    writeFileSync(at("adapter", "adapter_model.safetensors"), "");
    expect(() => convertCheckpoint(at("adapter"), {})).toThrow(/is an adapter \(LoRA\) without its model/);
  });
});
