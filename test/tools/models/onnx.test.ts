/** The standalone ONNX files of an export, run by onnxruntime. */
import { InferenceSession, Tensor } from "onnxruntime-web";
import { describe, expect, test } from "vitest";
import type { ActivationRanges, Model, Preprocess } from "../../../src/format/model.ts";
import { encodeTensors, selfTestPixels } from "../../../src/format/write.ts";
import { forward } from "../../../src/reference/forward.ts";
import { checkOnnxFiles, onnxFiles } from "../../../tools/models/onnx.ts";
import { FAMILY } from "../../family.ts";
import { checkOnnx, readOnnx } from "../../fuzz/onnx-reader.ts";
import { expectClose, randomModel, randomPixels } from "../../helpers.ts";

async function infer(file: Uint8Array, { imageSize }: Model["manifest"], pictures: Float32Array[]) {
  const session = await InferenceSession.create(file, { logSeverityLevel: 3 });
  const pixels = Float32Array.from(pictures.flatMap((picture) => [...picture]));
  const outputs = await session.run({
    pixel_values: new Tensor("float32", pixels, [pictures.length, 3, ...imageSize]),
  });
  const results = Object.entries(outputs).map(([name, { data }]): [string, number[]] => [
    name,
    [...(data as Float32Array)],
  ]);
  await session.release();
  return Object.fromEntries(results);
}

/** int8 weights, with the ranges of activations that these pictures make, or without. */
function int8Of(model: Model, pictures: Float32Array[]): Model {
  const tensors = encodeTensors(model.tensors, "int8");
  const activations: ActivationRanges = {};
  for (const pixels of pictures) {
    forward({ ...model, dtype: "int8", tensors }, pixels, {
      onLinear(name, input) {
        const [low, high] = activations[`${name}.input`] ?? [0, 0];
        activations[`${name}.input`] = [Math.min(low, ...input), Math.max(high, ...input)];
      },
    });
  }
  const entry = { dtype: "int8" as const, file: "model.int8.safetensors", bytes: 0, sha256: "", activations };
  return { manifest: { ...model.manifest, weights: [entry] }, dtype: "int8", tensors };
}

const withoutRanges = (int8: Model): Model => ({ ...int8, manifest: { ...int8.manifest, weights: [] } });

const pictures = [1, 2, 3].map((seed) => randomPixels(FAMILY.DeiT, seed));

describe.each(["DeiT", "SigLIP", "DINOv3, merging"])("the files of %s", (name) => {
  const model = randomModel(FAMILY[name], 3);
  const files = onnxFiles(model, int8Of(model, pictures));

  test("are whole, with a free batch", () => {
    for (const file of ["model.onnx", "model_quantized.onnx"])
      checkOnnx(files[file] as Uint8Array, { ...model.manifest }, "batch");
  });

  test.each([1, 3])("model.onnx gives the reference's logits and features to %i at once", async (count) => {
    const few = pictures.slice(0, count);
    const { logits, features } = await infer(files["model.onnx"] as Uint8Array, model.manifest, few);
    const expected = few.map((pixels) => forward(model, pixels));
    expectClose(
      logits,
      expected.flatMap((output) => [...output.logits]),
      1e-4,
    );
    expectClose(
      features,
      expected.flatMap((output) => [...output.features]),
      1e-4,
    );
  });
});

describe("the int8 form", () => {
  // Free of merges and of sharp functions, so that eight bits of the activations show as what they are.
  const model = randomModel(FAMILY.DeiT, 3);
  const int8 = int8Of(model, pictures);
  const expected = pictures.map((pixels) => [...forward(int8, pixels).logits]);
  const quantised = (of: Model) => onnxFiles(model, of)["model_quantized.onnx"] as Uint8Array;

  test.each([
    ["by ranges", int8],
    ["as it comes", withoutRanges(int8)],
  ])("%s, is within the rounding of activations", async (_, of) => {
    for (const [k, pixels] of pictures.entries()) {
      const { logits } = await infer(quantised(of), model.manifest, [pixels]);
      expectClose(logits, expected[k], 0.06);
      expect(Math.max(...logits.map((v, i) => Math.abs(v - expected[k][i])))).toBeGreaterThan(1e-4);
    }
  });

  // In networks that merge tokens, rounding can change which pairs merge.
  const plain = Object.entries(FAMILY).filter(([, { blocks }]) => blocks.every(({ merge }) => merge === 0));
  test.each(plain)("by ranges, is near %s", async (_, arch) => {
    const model = randomModel(arch, 3);
    const pictures = [1, 2, 3].map((seed) => randomPixels(arch, seed));
    const int8 = int8Of(model, pictures);
    const { features } = await infer(
      onnxFiles(model, int8)["model_quantized.onnx"] as Uint8Array,
      model.manifest,
      pictures,
    );
    expectClose(
      features,
      pictures.flatMap((pixels) => [...forward(int8, pixels).features]),
      0.12,
    );
  });

  test("by ranges gives a picture the same whatever is beside it", async () => {
    const together = await infer(quantised(int8), model.manifest, pictures);
    for (const [k, pixels] of pictures.entries()) {
      const { logits } = await infer(quantised(int8), model.manifest, [pixels]);
      expectClose(together.logits.slice(5 * k, 5 * k + 5), logits, 1e-5);
    }
  });

  test("has the linears in the form that onnxruntime makes integer kernels of", () => {
    const { nodes } = readOnnx(quantised(int8));
    const count = (op: string) => nodes.filter((node) => node.op === op).length;
    // In each of three blocks what enters qkv, proj, fc1 and fc2; in the last one q is of the class token alone.
    const inputs = 3 * 4 + 1;
    expect(count("QuantizeLinear")).toBe(inputs);
    // Weight and bias of the six linears of a block, q, k and v apart, and the head's weight.
    expect(count("DequantizeLinear")).toBe(inputs + 3 * 6 * 2 + 1);
    const dequantised = nodes.filter((node) => node.op === "DequantizeLinear");
    expect(dequantised.every(({ inputs }) => inputs.length === 3)).toBe(true); // with a zero point, without which it fuses none
    const dynamic = readOnnx(quantised(withoutRanges(int8))).nodes;
    expect(dynamic.filter((node) => node.op === "MatMulInteger")).toHaveLength(3 * 6);
    expect(dynamic.filter((node) => node.op === "DynamicQuantizeLinear")).toHaveLength(inputs);
  });

  test("is a third of the f32 form's bytes or less, of a network that is mostly linears", () => {
    const wide = randomModel(
      { ...FAMILY.DeiT, embedDim: 64, blocks: FAMILY.DeiT.blocks.map((block) => ({ ...block, mlpHidden: 512 })) },
      1,
    );
    const files = onnxFiles(wide, int8Of(wide, []));
    expect(files["model_quantized.onnx"].length / files["model.onnx"].length).toBeLessThan(1 / 3);
  });
});

describe("the check before they are written", () => {
  const model = randomModel(FAMILY.DeiT, 3);
  const int8 = int8Of(model, pictures);
  const files = onnxFiles(model, int8);
  const known = (of: Model) => ({ seed: 1, logits: [...forward(of, selfTestPixels(model.manifest, 1)).logits] });
  const { manifest } = model;
  const [variant] = manifest.variants;
  const knowing = { ...manifest, variants: [{ ...variant, selfTest: { f32: known(model), int8: known(int8) } }] };

  test("lets pass what computes the model", async () => {
    await expect(checkOnnxFiles(files, knowing)).resolves.toBeUndefined();
    await expect(checkOnnxFiles({ "card.md": "" }, knowing)).resolves.toBeUndefined(); // without --onnx
  });

  const stranger = randomModel(FAMILY.DeiT, 4);
  test.each<[string, () => Record<string, string | Uint8Array>, RegExp]>([
    ["other weights", () => onnxFiles(stranger), /model\.onnx fails\. .* \d+\.\d % off .* at most 1 %/],
    [
      "other int8 weights",
      () => ({
        ...files,
        "model_quantized.onnx": onnxFiles(model, int8Of(stranger, pictures))["model_quantized.onnx"],
      }),
      /model_quantized\.onnx fails\. .* \d+\.\d % off .* at most 20 %/,
    ],
    [
      "half a file",
      () => ({ ...files, "model.onnx": (files["model.onnx"] as Uint8Array).subarray(0, 1000) }),
      /model\.onnx fails\. .*Leave --onnx out/,
    ],
  ])("refuses %s", async (_, broken, message) => {
    await expect(checkOnnxFiles(broken(), knowing)).rejects.toMatchObject({
      code: "bad-model",
      message: expect.stringMatching(message),
    });
  });
});

describe("what is beside them", () => {
  const model = randomModel(FAMILY.DeiT, 3);
  const withPreprocess = (preprocess: Partial<Preprocess>): Model => ({
    ...model,
    manifest: { ...model.manifest, preprocess: { ...model.manifest.preprocess, ...preprocess } },
  });
  const parsed = (of: Model, file: string) => {
    const text = onnxFiles(of)[file];
    return text === undefined ? undefined : JSON.parse(text as string);
  };

  test("the metadata have labels, their ids, scores and preprocessing", () => {
    const { metadata } = readOnnx(onnxFiles(model)["model.onnx"] as Uint8Array);
    expect(metadata.get("name")).toBe("random");
    expect(metadata.get("license")).toBe("Apache-2.0");
    expect(metadata.get("scores")).toBe("softmax");
    expect(JSON.parse(metadata.get("labels")!)).toEqual(["class 0", "class 1", "class 2", "class 3", "class 4"]);
    expect(JSON.parse(metadata.get("label_ids")!)).toEqual(["c0", "c1", "c2", "c3", "c4"]);
    expect(JSON.parse(metadata.get("preprocess")!)).toEqual(model.manifest.preprocess);
  });

  test("config.json names the classes, and f32 where there is nothing else", () => {
    const labels = { 0: "class 0", 1: "class 1", 2: "class 2", 3: "class 3", 4: "class 4" };
    const config = { model_type: "vit", architectures: ["ViTForImageClassification"], id2label: labels };
    expect(parsed(model, "config.json")).toEqual({ ...config, "transformers.js_config": { dtype: "fp32" } });
    const both = onnxFiles(model, int8Of(model, []));
    expect(JSON.parse(both["config.json"] as string)).toEqual(config);
  });

  test("an embedding model gives its features by the name that transformers.js looks for, too", async () => {
    const clip = randomModel(FAMILY.CLIP, 3);
    const files = onnxFiles(clip);
    const results = await infer(files["model.onnx"] as Uint8Array, clip.manifest, pictures.slice(0, 1));
    expect(Object.keys(results).sort()).toEqual(["features", "image_embeds"]);
    expectClose(results.image_embeds, results.features, 0);
    expect(JSON.parse(files["config.json"] as string)).toMatchObject({ architectures: ["ViTModel"] });
  });

  test.each<[string, Partial<Preprocess>, object]>([
    ["the shorter side", { resize: 24 }, { size: { shortest_edge: 24 }, resample: 3 }],
    ["squashed", { resize: [20, 12], interpolation: "bilinear" }, { size: { height: 20, width: 12 }, resample: 2 }],
    ["covering a square", { resize: [24, 24], fit: "cover" }, { size: { shortest_edge: 24 } }],
    ["lanczos", { interpolation: "lanczos" }, { resample: 1 }],
  ])("preprocessor_config.json, %s", (_, preprocess, expected) => {
    expect(parsed(withPreprocess(preprocess), "preprocessor_config.json")).toMatchObject({
      ...expected,
      crop_size: { height: 20, width: 12 },
      image_mean: [0.5, 0.5, 0.5],
      image_std: [0.5, 0.5, 0.5],
    });
  });

  test.each<[string, Partial<Preprocess>]>([
    ["contained", { resize: [24, 24], fit: "contain" }],
    ["covering an oblong", { resize: [24, 20], fit: "cover" }],
  ])("no preprocessor_config.json for pictures %s, which its words cannot say", (_, preprocess) => {
    expect(parsed(withPreprocess(preprocess), "preprocessor_config.json")).toBeUndefined();
  });
});
