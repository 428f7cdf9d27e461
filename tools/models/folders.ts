/**
 * Model folders on disk: read with every check, and written only after the shipped engine has passed the self-test on
 * them.
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { constants, deflateSync, inflateSync } from "node:zlib";
import { openWithoutDevice } from "../../src/engines/opening.ts";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { readFamily } from "../../src/format/family.ts";
import {
  type ActivationRanges,
  type Architecture,
  type Manifest,
  MEANS,
  type Model,
  type SelfTest,
  type Tensors,
  type WeightsDtype,
  type WeightsFile,
} from "../../src/format/model.ts";
import { readManifest, readModel } from "../../src/format/read.ts";
import { checkSlabs } from "../../src/format/slabFields.ts";
import { type SingleManifest, singleVariant, withVariant } from "../../src/format/variants.ts";
import { encodeTensors, manifestJson, selfTestPixels, writeWeights } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import toolsPackage from "../package.json" with { type: "json" };

import { type Files, writeFolder } from "./outputs.ts";
import { splitSource } from "./sources.ts";

export { claimFile, claimOutput, writeFileAtomic, writeFolder } from "./outputs.ts";
export { splitSource } from "./sources.ts";

const MANIFEST = "slimvit.json";
const SELF_TEST_SEED = 1;
/**
 * Significant digits of the recorded numbers. Engines are compared relative to their size, which is small for a head
 * that is hardly trained.
 */
const SELF_TEST_DIGITS = 6;

/**
 * @param source a folder, or `folder#variant`
 * @returns the model without its rule for unknown pictures: that holds for the very features that it was measured on, and what
 * commands make of a model has others
 * @throws SlimViTError `bad-model` for a folder without slimvit.json, a missing weights file or a wrong hash; `bad-option`
 */
export function readModelFolder(source: string, dtype?: WeightsDtype): Model {
  const manifest = readManifestFile(source);
  const { dir } = splitSource(source);
  const order: WeightsDtype[] = dtype ? [dtype] : ["f32", "f16", "int8"];
  const entry = order.map((want) => manifest.weights.find((file) => file.dtype === want)).find(Boolean);
  if (!entry) {
    const has = manifest.weights.map((file) => file.dtype).join(", ") || "none";
    throw new SlimViTError("bad-model", `${join(dir, MANIFEST)}: has no ${dtype ?? ""} weights (it has ${has}).`);
  }
  const { slabs } = readWeightsFile(dir, entry);
  const name = join(dir, entry.file);
  if (manifest.variants.length > 1) return readFamily(manifest, entry.dtype, slabs, name);
  return withoutRule(readModel(manifest, entry.dtype, slabs[0], name));
}

function withoutRule({ manifest, dtype, tensors }: Model): Model {
  if (!manifest.head?.unknown) return { manifest, dtype, tensors };
  const { unknown: _, ...head } = manifest.head;
  const { taught: __, ...provenance } = manifest.provenance;
  return {
    manifest: { ...manifest, head, provenance },
    dtype,
    tensors: new Map([...tensors].filter(([key]) => key !== MEANS)),
  };
}

/**
 * @returns the file as it lies in the folder, and the safetensors in it: one, or its slabs
 * @throws SlimViTError `bad-model` for a missing one or a wrong size, `integrity`
 */
export function readWeightsFile(dir: string, entry: WeightsFile): { file: Uint8Array; slabs: Uint8Array[] } {
  const path = join(dir, entry.file);
  if (!existsSync(path)) throw new SlimViTError("bad-model", `${path}: is missing; slimvit.json names it.`);
  const file = readFileSync(path);
  if (file.length !== entry.bytes) {
    throw new SlimViTError(
      "bad-model",
      `${path}: has ${file.length} bytes, slimvit.json says ${entry.bytes}; the file is cut off or another one.`,
    );
  }
  let at = 0;
  const slabs = (entry.slabs ?? [entry]).map(({ bytes, unpackedBytes, sha256: promised }, i, { length }) => {
    const packed = file.subarray(at, at + bytes);
    at += bytes;
    const slab = entry.file.endsWith(".zz") ? unpack(packed, unpackedBytes, path) : packed;
    if (sha256(slab) === promised) return slab;
    const which = length > 1 ? `the sha256 of slab ${i + 1}` : "its sha256";
    throw new SlimViTError("integrity", `${path}: ${which} is not the one in slimvit.json.`);
  });
  return { file, slabs };
}

function unpack(file: Uint8Array, most: number | undefined, path: string): Uint8Array {
  try {
    return inflateSync(file, { maxOutputLength: most });
  } catch (error) {
    throw new SlimViTError("integrity", `${path}: cannot be unpacked (${messageOf(error)}).`, { cause: error });
  }
}

/**
 * Packs with Huffman codes alone. Small levels are in almost random order, so the repetitions that deflate finds cost
 * more than they save, and symbols coded by their frequency take less.
 */
export const pack = (bytes: Uint8Array): Uint8Array =>
  deflateSync(bytes, { level: 9, memLevel: 9, strategy: constants.Z_HUFFMAN_ONLY });

/** The size of the weights on disk and as a download. */
export function fileBytes(tensors: Tensors, dtype: WeightsDtype): number {
  const bytes = writeWeights(encodeTensors(tensors, dtype));
  return (dtype === "int8" ? pack(bytes) : bytes).length;
}

/** @param source a folder, or `folder#variant` */
export function readManifestFile(source: string): Manifest {
  const { dir, variant } = splitSource(source);
  const path = join(dir, MANIFEST);
  if (!statSync(dir, { throwIfNoEntry: false })?.isDirectory())
    throw new SlimViTError("bad-model", `${dir}: no such folder.`);
  if (!existsSync(path))
    throw new SlimViTError("bad-model", `${dir}: has no ${MANIFEST}; it is no SlimViT model folder.`);
  const manifest = readManifest(readFileSync(path, "utf8"), path);
  checkSlabs(manifest, path);
  return variant === undefined ? manifest : withVariant(manifest, variant);
}

/**
 * Each variant of a folder as `folder#variant`, in the folder's order. A folder with one variant, or a named variant,
 * gives the source itself.
 */
export function variantSources(source: string): string[] {
  const { dir, variant } = splitSource(source);
  const { variants } = readManifestFile(source);
  return variant !== undefined || variants.length < 2 ? [source] : variants.map(({ name }) => `${dir}#${name}`);
}

/** The manifest of a new folder. The weights' entries are added when it is written. */
export type ManifestDraft = Omit<SingleManifest, "weights">;

/** The content of a model folder that is to be written. */
interface FolderContent {
  draft: ManifestDraft;
  /** in any dtype, of which each of `dtypes` is made */
  tensors: Tensors | ((dtype: WeightsDtype) => Tensors);
  dtypes: WeightsDtype[];
  /** tensors that are written as they are, whatever the dtype */
  asTheyAre?: Tensors;
  /** further files, or what gives them for the manifest as written */
  extra?: Files | ((manifest: Manifest) => Files);
  /** of the int8 weights: what enters their linears */
  activations?: ActivationRanges;
  /** further checks of what would be written; throws where it must not be */
  check?: (manifest: Manifest) => Promise<void>;
}

/**
 * Writes a model, as every command does: each weights file is opened by the engine that ships and passes its self-test before
 * anything lies under the name that was asked for.
 *
 * @param replace a folder that is there
 * @returns the manifest as written
 * @throws SlimViTError `bad-model` where what would be written cannot be read or computes something else
 */
export async function writeModel(out: string, content: FolderContent, replace = false): Promise<Manifest> {
  const { manifest, files, safetensors } = encodeFolder(content);
  const written = readableManifest(out, files[MANIFEST] as string);
  for (const { dtype } of manifest.weights) {
    try {
      const model = readModel(written, dtype, safetensors[dtype]!, join(out, MANIFEST));
      (await openWithoutDevice(model, {}, false)).engine.dispose();
    } catch (error) {
      throw new SlimViTError(
        "bad-model",
        `${out}: is not written, because its ${dtype} weights fail. ${messageOf(error)} ${ADVICE[dtype]}`,
      );
    }
  }
  await content.check?.(written);
  writeFolder(out, files, replace);
  return manifest;
}

export const ADVICE: Record<WeightsDtype, string> = {
  f32: "Look for NaN or very large weights in what it was made from.",
  f16: "Its numbers are too large for f16; export f32 or int8 instead.",
  int8: "Channels of very different sizes do not fit one scale; export f16 instead, or retrain with --weight-step.",
};

export function readableManifest(out: string, text: string): Manifest {
  try {
    return readManifest(text, join(out, MANIFEST));
  } catch (error) {
    throw new SlimViTError("bad-model", `${out}: is not written, since no runtime would read it. ${messageOf(error)}`);
  }
}

/** Writes a model that nothing has been run on: for tests and timings. Commands call `writeModel`. */
export function writeModelFolder(
  out: string,
  draft: ManifestDraft,
  tensors: FolderContent["tensors"],
  dtypes: WeightsDtype[],
  extra: FolderContent["extra"] = {},
  replace = false,
): Manifest {
  const { manifest, files } = encodeFolder({ draft, tensors, dtypes, extra });
  writeFolder(out, files, replace);
  return manifest;
}

function encodeFolder({ draft, tensors, dtypes, asTheyAre = new Map(), extra = {}, activations }: FolderContent) {
  const files: Files = {};
  const safetensors: Partial<Record<WeightsDtype, Uint8Array>> = {};
  const manifest = singleVariant({ ...draft, weights: [] });
  const selfTests: Partial<Record<WeightsDtype, SelfTest>> = {};
  for (const dtype of dtypes) {
    const encoded = encodeTensors(typeof tensors === "function" ? tensors(dtype) : tensors, dtype);
    for (const [key, tensor] of asTheyAre) encoded.set(key, tensor);
    const bytes = writeWeights(encoded);
    const packed = dtype === "int8" ? pack(bytes) : undefined; // f16 hardly shrinks, and other tools read it as it is
    const file = `model.${dtype}.safetensors${packed ? ".zz" : ""}`;
    files[file] = packed ?? bytes;
    safetensors[dtype] = bytes;
    manifest.weights.push({
      dtype,
      file,
      bytes: files[file].length,
      ...(packed && { unpackedBytes: bytes.length }),
      sha256: sha256(bytes),
      ...(dtype === "int8" && activations && { activations: shortened(activations) }),
    });
    selfTests[dtype] = selfTest(manifest, dtype, encoded);
  }
  manifest.variants[0].selfTest = selfTests;
  files[MANIFEST] = manifestText(manifestJson(manifest));
  Object.assign(files, typeof extra === "function" ? extra(manifest) : extra);
  return { manifest, files, safetensors };
}

/** Rounds to four digits, which are finer than any grid of 255 levels. */
export function shortened(ranges: ActivationRanges): ActivationRanges {
  const short = (value: number) => Number(value.toPrecision(4));
  return Object.fromEntries(Object.entries(ranges).map(([name, [low, high]]) => [name, [short(low), short(high)]]));
}

export function selfTest(manifest: Manifest, dtype: WeightsDtype, tensors: Tensors): SelfTest {
  const { logits, features } = forward({ manifest, dtype, tensors }, selfTestPixels(manifest, SELF_TEST_SEED));
  const rounded = (values: Float32Array) => Array.from(values, (v) => Number(v.toPrecision(SELF_TEST_DIGITS)));
  const known = manifest.head ? { logits: rounded(logits) } : { features: rounded(features) };
  return { seed: SELF_TEST_SEED, ...known };
}

/** Readable JSON whose lists of numbers stay on one line. */
export function manifestText(manifest: unknown): string {
  const text = JSON.stringify(manifest, null, 2);
  return `${text.replace(/\[\s+(-?[\d.][^[\]{}"]*?)\s+\]/g, (_, list: string) => `[${list.replace(/\s+/g, " ")}]`)}\n`;
}

export const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** One more entry in the list of commands that made a model. */
export function withStep(
  provenance: Record<string, unknown>,
  command: string,
  options: Record<string, unknown>,
): Record<string, unknown> {
  const steps = Array.isArray(provenance.steps) ? provenance.steps : [];
  return { ...provenance, steps: [...steps, { command, tools: toolsPackage.version, ...options }] };
}

const ARCHITECTURE: Record<keyof Architecture, true> = {
  ...{ imageSize: true, patchSize: true, embedDim: true, headDim: true, layerNormEps: true, normEps: true },
  ...{ prefixTokens: true, classToken: true, distilled: true, pooling: true, finalNorm: true, activation: true },
  ...{ mlp: true, hiddenNorm: true, preNorm: true, qkNorm: true, position: true, rope: true, poolHeads: true },
  ...{ poolHidden: true, poolActivation: true, projection: true, head: true, blocks: true },
};

/**
 * What a model computes, as a hash. Its weights alone do not tell: variants share them, and so do models that differ in
 * their tokens alone.
 */
export function modelDigest(manifest: Manifest): string {
  const { weights, labels, preprocess } = manifest;
  const network = (Object.keys(ARCHITECTURE) as (keyof Architecture)[]).map((key) => manifest[key]);
  return sha256(Buffer.from(JSON.stringify([weights.map((file) => file.sha256), network, labels, preprocess])));
}

/** The architecture fields of a manifest, without the rest. */
export function architectureOf(manifest: Architecture): Architecture {
  const fields = Object.entries(manifest).filter(([key]) => Object.hasOwn(ARCHITECTURE, key));
  return Object.fromEntries(fields) as unknown as Architecture;
}
