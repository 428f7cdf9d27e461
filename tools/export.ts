/** slimvit export MODEL -o DIR --dtype f32,f16,int8 [--onnx]: weights for shipping, and a standalone .onnx. */
import { basename, resolve } from "node:path";
import { writeOnnx } from "../src/engines/onnx/graph.ts";
import { SlimViTError } from "../src/errors.ts";
import type { Manifest, WeightsDtype } from "../src/format/model.ts";
import { encodeTensors } from "../src/format/write.ts";
import { cardText } from "./lib/card.ts";
import { claimOutput, readModelFolder, withStep, writeModelFolder } from "./lib/folders.ts";
import { say } from "./lib/terminal.ts";

export interface ExportOptions {
  out: string;
  dtype: WeightsDtype[];
  onnx?: boolean;
  name?: string;
  force?: boolean;
  /** int8: the large linears in 4 bits, on the grid of so many root mean squares of a row */
  weightStep?: number;
}

/** @param origin further facts for the provenance */
export function exportModel(
  source: string,
  options: ExportOptions,
  origin: Record<string, unknown> = {},
): { files: Record<string, number> } {
  const { weightStep } = options;
  if (weightStep && !options.dtype.includes("int8")) {
    throw new SlimViTError("bad-option", "export: --weight-step is of int8 weights, which --dtype does not name.");
  }
  const model = readModelFolder(source);
  claimOutput(options.out, options.force);
  const { format: _, weights: __, ...draft } = model.manifest;
  const name = options.name ?? basename(resolve(options.out));
  const provenance = withStep({ ...draft.provenance, ...origin }, "export", {
    dtype: options.dtype,
    ...(weightStep && { weightStep }),
  });
  const onnx: Record<string, Uint8Array> = options.onnx ? { "model.onnx": writeOnnx(model) } : {};
  const extra = (manifest: Manifest) => ({ ...onnx, "card.md": cardText(manifest) });
  const { out, dtype, force } = options;
  const tensors = (d: WeightsDtype) =>
    d === "int8" && weightStep ? encodeTensors(model.tensors, d, weightStep) : model.tensors;
  const manifest = writeModelFolder(out, { ...draft, name, provenance }, tensors, dtype, extra, force);
  const files = Object.fromEntries(manifest.weights.map(({ file, bytes }) => [file, bytes]));
  for (const [file, bytes] of Object.entries(onnx)) files[file] = bytes.length;
  for (const [file, bytes] of Object.entries(files)) say(`export: ${file} ${(bytes / 1e6).toFixed(2)} MB`);
  return { files };
}
