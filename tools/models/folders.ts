/** Model folders on disk: read with every check, written beside and renamed when complete. */
import { createHash, randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { constants, deflateSync, inflateSync } from "node:zlib";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import type {
  Architecture,
  Manifest,
  Model,
  SelfTest,
  Tensors,
  WeightsDtype,
  WeightsFile,
} from "../../src/format/model.ts";
import { readManifest, readModel } from "../../src/format/read.ts";
import { type SingleManifest, singleVariant } from "../../src/format/variants.ts";
import { encodeTensors, manifestJson, selfTestPixels, writeWeights } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import toolsPackage from "../package.json" with { type: "json" };

const MANIFEST = "slimvit.json";
const SELF_TEST_SEED = 1;

/** @throws SlimViTError `bad-model` for a folder without slimvit.json, a missing weights file or a wrong hash */
export function readModelFolder(dir: string, dtype?: WeightsDtype): Model {
  const manifest = readManifestFile(dir);
  const order: WeightsDtype[] = dtype ? [dtype] : ["f32", "f16", "int8"];
  const entry = order.map((want) => manifest.weights.find((file) => file.dtype === want)).find(Boolean);
  if (!entry) {
    const has = manifest.weights.map((file) => file.dtype).join(", ") || "none";
    throw new SlimViTError("bad-model", `${join(dir, MANIFEST)}: has no ${dtype ?? ""} weights (it has ${has}).`);
  }
  return readModel(manifest, entry.dtype, readWeightsFile(dir, entry).bytes, join(dir, entry.file));
}

/**
 * @returns the file as it lies in the folder, and the safetensors in it
 * @throws SlimViTError `bad-model` for a missing one or a wrong size, `integrity`
 */
export function readWeightsFile(dir: string, entry: WeightsFile): { file: Uint8Array; bytes: Uint8Array } {
  const path = join(dir, entry.file);
  if (!existsSync(path)) throw new SlimViTError("bad-model", `${path}: is missing; slimvit.json names it.`);
  const file = readFileSync(path);
  if (file.length !== entry.bytes) {
    throw new SlimViTError(
      "bad-model",
      `${path}: has ${file.length} bytes, slimvit.json says ${entry.bytes}; the file is cut off or another one.`,
    );
  }
  const bytes = entry.file.endsWith(".zz") ? unpack(file, entry.unpackedBytes, path) : file;
  if (sha256(bytes) !== entry.sha256)
    throw new SlimViTError("integrity", `${path}: its sha256 is not the one in slimvit.json.`);
  return { file, bytes };
}

function unpack(file: Uint8Array, most: number | undefined, path: string): Uint8Array {
  try {
    return inflateSync(file, { maxOutputLength: most });
  } catch (error) {
    throw new SlimViTError("integrity", `${path}: cannot be unpacked (${messageOf(error)}).`, { cause: error });
  }
}

/**
 * Small levels are all but random in their order: what deflate finds to repeat costs more than it saves, and symbols alone,
 * by how often they come, take less.
 */
const pack = (bytes: Uint8Array): Uint8Array =>
  deflateSync(bytes, { level: 9, memLevel: 9, strategy: constants.Z_HUFFMAN_ONLY });

export function readManifestFile(dir: string): Manifest {
  const path = join(dir, MANIFEST);
  if (!statSync(dir, { throwIfNoEntry: false })?.isDirectory())
    throw new SlimViTError("bad-model", `${dir}: no such folder.`);
  if (!existsSync(path))
    throw new SlimViTError("bad-model", `${dir}: has no ${MANIFEST}; it is no SlimViT model folder.`);
  return readManifest(readFileSync(path, "utf8"), path);
}

/** Contents by name. */
type Files = Record<string, string | Uint8Array>;

/** What a new folder says of itself; the weights entries are made when it is written. */
export type ManifestDraft = Omit<SingleManifest, "weights">;

/**
 * @param tensors in any dtype, of which each of `dtypes` is made
 * @param extra further files, or what gives them for the manifest as written
 * @param replace a folder that is there
 * @returns the manifest as written
 */
export function writeModelFolder(
  out: string,
  draft: ManifestDraft,
  tensors: Tensors | ((dtype: WeightsDtype) => Tensors),
  dtypes: WeightsDtype[],
  extra: Files | ((manifest: Manifest) => Files) = {},
  replace = false,
): Manifest {
  const files: Files = {};
  const manifest = singleVariant({ ...draft, weights: [] });
  const selfTests: Partial<Record<WeightsDtype, SelfTest>> = {};
  for (const dtype of dtypes) {
    const encoded = encodeTensors(typeof tensors === "function" ? tensors(dtype) : tensors, dtype);
    const bytes = writeWeights(encoded);
    const packed = dtype === "int8" ? pack(bytes) : undefined; // f16 hardly shrinks, and other tools read it as it is
    const file = `model.${dtype}.safetensors${packed ? ".zz" : ""}`;
    files[file] = packed ?? bytes;
    manifest.weights.push({
      dtype,
      file,
      bytes: files[file].length,
      ...(packed && { unpackedBytes: bytes.length }),
      sha256: sha256(bytes),
    });
    selfTests[dtype] = selfTest(manifest, dtype, encoded);
  }
  manifest.variants[0].selfTest = selfTests;
  files[MANIFEST] = manifestText(manifestJson(manifest));
  Object.assign(files, typeof extra === "function" ? extra(manifest) : extra);
  writeFolder(out, files, replace);
  return manifest;
}

function selfTest(manifest: Manifest, dtype: WeightsDtype, tensors: Tensors): SelfTest {
  const { logits, features } = forward({ manifest, dtype, tensors }, selfTestPixels(manifest, SELF_TEST_SEED));
  const rounded = (values: Float32Array) => Array.from(values, (v) => Number(v.toFixed(5)));
  const known = manifest.head ? { logits: rounded(logits) } : { features: rounded(features) };
  return { seed: SELF_TEST_SEED, ...known };
}

/** Readable JSON whose lists of numbers stay on one line. */
export function manifestText(manifest: unknown): string {
  const text = JSON.stringify(manifest, null, 2);
  return `${text.replace(/\[\s+(-?[\d.][^[\]{}"]*?)\s+\]/g, (_, list: string) => `[${list.replace(/\s+/g, " ")}]`)}\n`;
}

/**
 * All files or none: written into a folder beside `out`, which is then renamed. A killed run leaves no half folder
 * under the name that was asked for. What is to be replaced stays until the new folder is complete.
 */
export function writeFolder(out: string, files: Files, replace = false): void {
  const beside = join(dirname(resolve(out)), `.${basename(resolve(out))}`);
  const mark = randomBytes(4).toString("hex");
  const [temporary, replaced] = [`${beside}.part-${mark}`, `${beside}.old-${mark}`];
  mkdirSync(temporary, { recursive: true });
  try {
    for (const [name, content] of Object.entries(files)) {
      mkdirSync(dirname(join(temporary, name)), { recursive: true });
      writeFileSync(join(temporary, name), content);
    }
    if (replace && existsSync(out)) renameSync(out, replaced);
    renameSync(temporary, resolve(out));
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    throw error;
  }
  rmSync(replaced, { recursive: true, force: true });
}

/** @throws SlimViTError `bad-option` when `out` exists and `force` is not given; with it, `writeFolder` may replace it */
export function claimOutput(out: string, force = false): void {
  if (existsSync(out) && !force)
    throw new SlimViTError("bad-option", `${out}: exists already. Choose another -o, or give --force to replace it.`);
}

/** A file is never seen half-written. */
export function writeFileAtomic(path: string, content: string | Uint8Array): void {
  mkdirSync(dirname(path), { recursive: true });
  const temporary = `${path}.part-${randomBytes(4).toString("hex")}`; // of this process: others may write the same file
  writeFileSync(temporary, content);
  renameSync(temporary, path);
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

/** The architecture fields of a manifest, without the rest. */
export function architectureOf(manifest: Architecture): Architecture {
  const fields = Object.entries(manifest).filter(([key]) => Object.hasOwn(ARCHITECTURE, key));
  return Object.fromEntries(fields) as unknown as Architecture;
}
