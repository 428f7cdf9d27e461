/** Writes the same weights in the form that each runtime takes. */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { QuantisedLayers, writeOnnx } from "../src/engines/onnx/graph.ts";
import { countMacs, type Model, type WeightsDtype } from "../src/format/model.ts";
import { rangesOn } from "../tools/bench/benchModels.ts";
import { readModelFolder, writeModel } from "../tools/models/folders.ts";
import { randomShape } from "../tools/models/shapes.ts";
import type { Network, Platform } from "./cases.ts";
import { cutModel, uniformBlocks } from "./cut.ts";
import { writeInt8Onnx, writeMaskedOnnx } from "./onnx-forms.ts";
import { writeTflite } from "./tflite.ts";

/** @returns each network in f32, as the reference is to run it */
export async function writeModels(
  out: string,
  sources: { dense: string; slim: string },
  platform: Platform,
): Promise<Record<Network, Model>> {
  const write = (file: string, content: string | Uint8Array) => {
    mkdirSync(dirname(join(out, file)), { recursive: true });
    writeFileSync(join(out, file), content);
  };
  const written = async (network: "dense" | "slim") => {
    const folder = join(out, network);
    const content = randomShape(sources[network]) ?? stored(sources[network]);
    const dtypes: WeightsDtype[] = ["f32", "int8"];
    await writeModel(folder, { ...content, dtypes, ...(platform === "webnn" && { activations: rangesOn(content) }) });
    const [f32, int8] = (["f32", "int8"] as const).map((dtype) => readModelFolder(folder, dtype));
    for (const form of ["MatMulInteger", "DynamicQuantizeMatMul"] as const)
      write(`${network}.${form}.onnx`, writeInt8Onnx(int8, form));
    write(`${network}.onnx`, writeOnnx(f32));
    write(`${network}.f32.tflite`, writeTflite(f32));
    write(`${network}.int8.tflite`, writeTflite(int8));
    if (platform === "webnn") write(`${network}.qdq.onnx`, writeOnnx(int8, { layers: QuantisedLayers }));
    if (network === "dense") writeTransformers(f32, int8, write);
    return f32;
  };
  const [dense, slim] = [await written("dense"), await written("slim")];
  const { blocks } = slim.manifest;
  const masked = blocks.map((block, i) => ({ ...block, keepIdx: dense.manifest.blocks[i].keepIdx }));
  write("masked.onnx", writeMaskedOnnx(dense, masked));
  const uniform = cutModel(dense, uniformBlocks(dense, countMacs(slim.manifest, slim.manifest.labels.length)));
  write("uniform.onnx", writeOnnx(uniform));
  return { dense, slim, masked: cutModel(dense, masked), uniform };
}

/** int8 weights stay on their grid where the folder has no others. */
function stored(source: string) {
  const { manifest, tensors } = readModelFolder(source);
  const { format: _, weights: __, ...draft } = manifest;
  return { draft, tensors };
}

/** Writes a folder as on Hugging Face. */
function writeTransformers(f32: Model, int8: Model, write: (file: string, content: string | Uint8Array) => void): void {
  const { labels, preprocess, imageSize } = f32.manifest;
  const id2label = Object.fromEntries(labels.map(({ label }, i) => [i, label]));
  write(
    "transformers/config.json",
    JSON.stringify({ model_type: "vit", architectures: ["ViTForImageClassification"], id2label }),
  );
  write(
    "transformers/preprocessor_config.json",
    JSON.stringify({
      image_processor_type: "DeiTFeatureExtractor",
      do_resize: true,
      size: { shortest_edge: preprocess.resize },
      resample: 3,
      do_center_crop: true,
      crop_size: { height: imageSize[0], width: imageSize[1] },
      do_normalize: true,
      image_mean: preprocess.mean,
      image_std: preprocess.std,
    }),
  );
  write("transformers/onnx/model.onnx", writeOnnx(f32));
  write("transformers/onnx/model_quantized.onnx", writeInt8Onnx(int8, "MatMulInteger"));
}
