/** Standalone ONNX files of a model, and the files that transformers.js reads beside them. */
import type { Engine } from "../../src/engines/engine.ts";
import { INPUT, type OnnxOptions, QuantisedLayers, writeOnnx } from "../../src/engines/onnx/graph.ts";
import { selfTest } from "../../src/engines/selfTest.ts";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import type { Manifest, Model, Preprocess, WeightsDtype } from "../../src/format/model.ts";
import { selfTestOf } from "../../src/format/variants.ts";
import type { Files } from "./outputs.ts";

/** Pillow's numbers of its filters. */
const RESAMPLE: Preprocess["interpolation"][] = ["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"];

/**
 * `model.onnx` in f32 and, with int8 weights, `model_quantized.onnx`, as transformers.js calls its q8. Both take any number of
 * pictures at once, and have labels and preprocessing in their metadata.
 *
 * @param int8 the same model with int8 weights; its manifest may have the ranges of its activations
 * @returns also config.json, and preprocessor_config.json where its words suffice
 */
export function onnxFiles(model: Model, int8?: Model): Files {
  const { manifest } = model;
  const options: OnnxOptions = { freeBatch: true, alsoImageEmbeds: true, metadata: metadataOf(manifest) };
  const preprocessor = preprocessorConfig(manifest.preprocess);
  return {
    "model.onnx": writeOnnx(model, options),
    ...(int8 && { "model_quantized.onnx": writeOnnx(int8, { ...options, layers: QuantisedLayers }) }),
    "config.json": json(configOf(manifest, int8 !== undefined)),
    ...(preprocessor && { "preprocessor_config.json": json(preprocessor) }),
  };
}

/**
 * Runs the ONNX files on the input whose outputs the manifest knows.
 *
 * @throws SlimViTError `bad-model` for one that onnxruntime does not open, or that computes something else
 */
export async function checkOnnxFiles(files: Files, manifest: Manifest): Promise<void> {
  const known = (["f32", "f16", "int8"] as const).filter((dtype) => selfTestOf(manifest, dtype));
  for (const [file, dtype] of [
    ["model.onnx", known[0]],
    ["model_quantized.onnx", "int8"],
  ] as const) {
    if (!files[file]) continue;
    const fault = await faultOf(files[file] as Uint8Array, manifest, dtype);
    if (!fault) continue;
    const advice = dtype === "int8" ? "Give --data other pictures, or leave int8 or --onnx out." : "Leave --onnx out.";
    throw new SlimViTError(
      "bad-model",
      `${manifest.name}: is not written, because its ${file} fails. ${fault} ${advice}`,
    );
  }
}

/** @param dtype whose outputs the manifest knows */
async function faultOf(file: Uint8Array, manifest: Manifest, dtype: WeightsDtype): Promise<string | undefined> {
  const { env, InferenceSession, Tensor } = await import("onnxruntime-web"); // large, and other commands have no use for it
  env.wasm.numThreads = 1;
  try {
    const session = await InferenceSession.create(file, { logSeverityLevel: 3 });
    const engine: Engine = {
      name: "onnx-wasm",
      threads: 1,
      async run(pixels) {
        const { logits, features } = await session.run({
          [INPUT]: new Tensor("float32", pixels, [1, 3, ...manifest.imageSize]),
        });
        const values = (of?: { data: unknown }) => (of ? (of.data as Float32Array) : new Float32Array(0));
        return { logits: values(logits), features: values(features) };
      },
      dispose() {},
    };
    await selfTest(engine, { manifest, dtype, tensors: new Map() });
    await session.release();
    return undefined;
  } catch (error) {
    return messageOf(error);
  }
}

/** The data with which a program turns outputs into classes. Lists and objects are JSON. */
function metadataOf({ name, license, labels, head, preprocess }: Manifest): Record<string, string> {
  return {
    name,
    license,
    preprocess: JSON.stringify(preprocess),
    ...(head && {
      scores: head.scores,
      labels: JSON.stringify(labels.map(({ label }) => label)),
      label_ids: JSON.stringify(labels.map(({ id }) => id)),
    }),
  };
}

/** transformers.js takes names and the task from it, nothing of the network, which is in the ONNX file. */
function configOf({ labels, head }: Manifest, hasInt8: boolean): object {
  return {
    model_type: "vit",
    architectures: [head ? "ViTForImageClassification" : "ViTModel"],
    ...(head && { id2label: Object.fromEntries(labels.map(({ label }, i) => [i, label])) }),
    ...(head?.scores === "sigmoid" && { problem_type: "multi_label_classification" }),
    ...(!hasInt8 && { "transformers.js_config": { dtype: "fp32" } }), // in browsers it would ask for model_quantized.onnx
  };
}

/** undefined for a picture that is to be contained, or to cover an oblong: its words are of squares and of squashing. */
function preprocessorConfig({ resize, fit, crop, interpolation, mean, std }: Preprocess): object | undefined {
  const isSide = typeof resize === "number";
  const covers = fit === "cover" && !isSide && resize[0] === resize[1];
  if (fit && !covers) return undefined;
  const [height, width] = isSide ? [resize, resize] : resize;
  return {
    image_processor_type: "ViTImageProcessor",
    do_resize: true,
    size: isSide || covers ? { shortest_edge: height } : { height, width },
    resample: RESAMPLE.indexOf(interpolation),
    do_center_crop: true,
    crop_size: { height: crop[0], width: crop[1] },
    do_rescale: true,
    rescale_factor: 1 / 255,
    do_normalize: true,
    image_mean: mean,
    image_std: std,
  };
}

const json = (value: object) => `${JSON.stringify(value, null, 2)}\n`;
