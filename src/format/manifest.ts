/** `slimvit.json` of any version → a checked `Manifest`. */
import { messageOf } from "../errors.ts";
import { readShared, SCORES, type SharedArchitecture } from "./architectureFields.ts";
import { checkBlocks } from "./blocks.ts";
import { Check } from "./check.ts";
import { LIMITS } from "./limits.ts";
import {
  type ActivationRange,
  type ActivationRanges,
  type Architecture,
  countMacs,
  countParams,
  denseTokens,
  FORMAT,
  featureDim,
  INTERPOLATIONS,
  type Label,
  type Manifest,
  type Preprocess,
  type RopeGrid,
  type SelfTest,
  type Slab,
  type Variant,
  type WeightsDtype,
  type WeightsFile,
} from "./model.ts";
import { MAX_HEADER_BYTES } from "./safetensors.ts";
import { show } from "./show.ts";
import { DEFAULT_VARIANT } from "./variants.ts";

/**
 * 21,841 labels and their self-tests fit. JSON.parse can make thirty times as much of a text, and whoever serves it has
 * promised nothing yet.
 */
export const MAX_MANIFEST_BYTES = 2.5 * 2 ** 20;

const VERSION_1 = "slimvit/1";
const DTYPES: readonly WeightsDtype[] = ["f32", "f16", "int8"];

/** An object of the file, before it is checked. */
type Json = Record<string, unknown>;

/**
 * Reads version 1 and version 2. Unknown fields are ignored.
 *
 * @param name how messages call the file
 * @returns the manifest with its first variant selected
 * @throws SlimViTError `bad-model`, naming the file and the fault
 */
export function readManifest(text: string, name: string): Manifest {
  const check = new Check(name);
  if (text.length > MAX_MANIFEST_BYTES) check.fail(`is longer than ${MAX_MANIFEST_BYTES} bytes.`);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    check.fail(`is not JSON (${messageOf(error)}).`);
  }
  const m = check.object(json, "the manifest");
  if (m.format !== FORMAT && m.format !== VERSION_1) {
    check.fail(
      `has format ${show(m.format)}; this version reads "${FORMAT}" and "${VERSION_1}". ` +
        'Export the model again with "slimvit export".',
    );
  }
  const isVersion1 = m.format === VERSION_1;
  check.string(m.name, "name");
  check.string(m.license, "license");
  const shared = readShared(check, m, isVersion1);
  const labels = readLabels(check, m.labels, shared.head !== undefined);
  const variants = readVariants(
    check,
    isVersion1 ? [versionOneVariant(check, m)] : m.variants,
    m,
    shared,
    labels.length,
  );
  const { imageSize, blocks, metrics, preprocess, rope, name: variant } = variants[0];
  const architecture: Architecture = { ...shared, imageSize, blocks, ...(rope && { rope }) };
  const weights = readWeightsFiles(check, m.weights, unpackedLimit(shared, variants, labels.length));
  return {
    ...withoutArchitecture(m),
    ...architecture,
    format: FORMAT,
    name: m.name as string,
    license: m.license as string,
    preprocess,
    labels,
    weights,
    provenance: readProvenance(check, m.provenance ?? {}),
    metrics,
    variants,
    variant,
  };
}

/** Checks only the fields that are computed with. */
function readProvenance(check: Check, value: unknown): Manifest["provenance"] {
  const provenance = check.object(value, "provenance");
  const at = "provenance.zeroShot";
  if (provenance.zeroShot !== undefined) {
    const { scores, scale, bias } = check.object(provenance.zeroShot, at);
    check.oneOf(scores, `${at}.scores`, SCORES);
    check.number(scale, `${at}.scale`, true);
    check.number(bias, `${at}.bias`, false);
  }
  return provenance;
}

/** Fields that the architecture as it was read does not have must not come back as unknown ones. */
function withoutArchitecture(m: Json): Json {
  const { normEps, hiddenNorm, rope, poolHeads, poolHidden, poolActivation, projection, head, ...rest } = m;
  return rest;
}

/** The only network of a version-1 manifest in version 2's form. Its self-tests are listed with the weights files. */
function versionOneVariant(check: Check, m: Json): Json {
  const { imageSize, blocks, metrics, weights } = m;
  const tests = (Array.isArray(weights) ? weights : []).flatMap((entry, i) => {
    const { dtype, selfTest } = check.object(entry, `weights[${i}]`);
    return selfTest === undefined ? [] : [[dtype, selfTest]];
  });
  return {
    name: DEFAULT_VARIANT,
    imageSize,
    blocks,
    metrics,
    ...(tests.length && { selfTest: Object.fromEntries(tests) }),
  };
}

function readVariants(check: Check, value: unknown, m: Json, shared: SharedArchitecture, classes: number): Variant[] {
  const isVersion1 = m.format === VERSION_1;
  const names = new Set<string>();
  return check.list(value, "variants", 1, LIMITS.variants).map((entry, i) => {
    const at = isVersion1 ? "" : `variants[${i}].`;
    const v = check.object(entry, `variants[${i}]`);
    const name = check.string(v.name, `${at}name`);
    if (!/^\w[\w.-]{0,63}$/.test(name))
      check.fail(`${at}name is ${show(name)}; expected up to 64 letters, digits, dots and dashes.`);
    if (names.has(name)) check.fail(`${at}name is ${show(name)}, which another variant has already.`);
    names.add(name);
    const imageSize = readImageSize(check, v.imageSize, at, shared.patchSize);
    const rope = shared.position === "rope" ? readRope(check, v.rope ?? m.rope, `${at}rope`) : undefined;
    const arch: Architecture = { ...shared, imageSize, blocks: [], ...(rope && { rope }) };
    const tokens = denseTokens(arch);
    if (tokens > LIMITS.tokens) check.fail(`has ${tokens} tokens; the limit is ${LIMITS.tokens}.`);
    arch.blocks = checkBlocks(check, v.blocks, at, arch, isVersion1);
    const own = v.preprocess !== undefined;
    const preprocess = own ? v.preprocess : m.preprocess;
    const selfTest = v.selfTest === undefined ? undefined : readSelfTests(check, v.selfTest, at, arch, classes);
    return {
      name,
      imageSize,
      blocks: arch.blocks,
      macs: countMacs(arch, classes),
      metrics: check.object(v.metrics ?? {}, `${at}metrics`),
      preprocess: checkPreprocess(check, preprocess, own ? `${at}preprocess` : "preprocess", imageSize),
      ...(rope && { rope }),
      ...(v.slabs !== undefined && { slabs: v.slabs as number }), // checked where it is used: slabFields.ts
      ...(selfTest && { selfTest }),
    };
  });
}

function readImageSize(check: Check, value: unknown, at: string, patchSize: number): [number, number] {
  const [height, width] = check.pair(value, `${at}imageSize`, LIMITS.imageSize);
  if (height % patchSize || width % patchSize)
    check.fail(`${at}imageSize ${height}×${width} is no multiple of patchSize ${patchSize}.`);
  return [height, width];
}

function readRope(check: Check, value: unknown, at: string): RopeGrid {
  const rope = check.object(value, at);
  const [rows, columns] = ["rows", "columns"].map((axis): [number, number] => {
    const [start, step] = check.list(rope[axis], `${at}.${axis}`, 2, 2);
    return [check.number(start, `${at}.${axis}`, false), check.number(step, `${at}.${axis}`, false)];
  });
  return { rows, columns };
}

function checkPreprocess(check: Check, value: unknown, at: string, imageSize: [number, number]): Preprocess {
  const preprocess = check.object(value, at) as unknown as Preprocess;
  const crop = check.pair(preprocess.crop, `${at}.crop`, LIMITS.imageSize);
  if (crop[0] !== imageSize[0] || crop[1] !== imageSize[1])
    check.fail(`${at}.crop ${show(crop)} is not imageSize ${show(imageSize)}.`);
  const { resize, fit, cropOffset } = preprocess;
  if (fit !== undefined) check.oneOf(fit, `${at}.fit`, ["cover", "contain"]);
  if (cropOffset !== undefined) check.oneOf(cropOffset, `${at}.cropOffset`, ["floor"]);
  if (Array.isArray(resize)) {
    check.list(resize, `${at}.resize`, 2, 2);
    resize.forEach((side, k) => void check.integer(side, `${at}.resize[${k}]`, crop[k], 4 * LIMITS.imageSize));
  } else {
    if (fit !== undefined)
      check.fail(`${at}.fit is "${fit}" and resize is ${show(resize)}; expected [height, width] beside it.`);
    check.integer(resize, `${at}.resize`, Math.max(...crop), 4 * LIMITS.imageSize);
  }
  check.oneOf(preprocess.interpolation, `${at}.interpolation`, INTERPOLATIONS);
  for (const key of ["mean", "std"] as const) {
    for (const number of check.list(preprocess[key], `${at}.${key}`, 3, 3))
      check.number(number, `${at}.${key}`, key === "std");
  }
  return preprocess;
}

function readLabels(check: Check, value: unknown, hasHead: boolean): Label[] {
  if (!hasHead && Array.isArray(value) && value.length)
    check.fail(
      `labels has ${value.length} entries and there is no head; expected head: { "scores": "softmax" } or "sigmoid".`,
    );
  const labels = check.list(hasHead ? value : (value ?? []), "labels", hasHead ? 1 : 0, LIMITS.classes);
  labels.forEach((label, i) => {
    const { id, label: text } = check.object(label, `labels[${i}]`);
    check.string(id, `labels[${i}].id`);
    check.string(text, `labels[${i}].label`);
  });
  return labels as Label[];
}

/**
 * The most bytes that a packed file may have when unpacked, as a few packed bytes can become very many. The limit is
 * the network in f32, or in int8 with rows of one weight, and a header. Variants can have tensors of their own, so
 * their sizes are added up.
 */
function unpackedLimit(shared: SharedArchitecture, variants: Variant[], classes: number): number {
  const params = variants.map(({ imageSize, blocks }) => countParams({ ...shared, imageSize, blocks }, classes));
  return params.reduce((limit, count) => limit + 5 * count + MAX_HEADER_BYTES, 0);
}

function readWeightsFiles(check: Check, list: unknown, unpackedLimit: number): WeightsFile[] {
  const dtypes = new Set<WeightsDtype>();
  return check.list(list, "weights", 0, 8).map((value, i): WeightsFile => {
    const at = `weights[${i}]`;
    const { dtype: type, file, bytes, sha256, unpackedBytes, activations, slabs } = check.object(value, at);
    const dtype = check.oneOf(type, `${at}.dtype`, DTYPES);
    if (dtypes.has(dtype)) check.fail(`${at} is a second ${dtype} file.`);
    dtypes.add(dtype);
    if (typeof file !== "string" || !/^[\w][\w.-]*\.safetensors(\.zz)?$/.test(file)) {
      return check.fail(
        `${at}.file is ${show(file)}; expected the plain name of a .safetensors file in the model's own folder.`,
      );
    }
    check.integer(bytes, `${at}.bytes`, 8, LIMITS.weightsBytes);
    const isPacked = file.endsWith(".zz");
    if (isPacked) check.integer(unpackedBytes, `${at}.unpackedBytes`, 8, unpackedLimit);
    if (typeof sha256 !== "string" || !/^[0-9a-f]{64}$/.test(sha256))
      return check.fail(`${at}.sha256 is ${show(sha256)}; expected 64 hex digits.`);
    const size = { bytes: bytes as number, ...(isPacked && { unpackedBytes: unpackedBytes as number }) };
    const ranges = activations === undefined ? {} : { activations: readActivations(check, activations, at) };
    return { dtype, file, ...size, sha256, ...ranges, ...(slabs !== undefined && { slabs: slabs as Slab[] }) };
  });
}

function readActivations(check: Check, value: unknown, at: string): ActivationRanges {
  const ranges = Object.entries(check.object(value, `${at}.activations`)).map(
    ([name, entry]): [string, ActivationRange] => {
      const where = `${at}.activations[${show(name)}]`;
      const [low, high] = check.list(entry, where, 2, 2).map((v) => check.number(v, where, false));
      if (low > high) check.fail(`${where} is ${show(entry)}; expected the lower bound first.`);
      return [name, [low, high]];
    },
  );
  return Object.fromEntries(ranges);
}

function readSelfTests(
  check: Check,
  value: unknown,
  at: string,
  arch: Architecture,
  classes: number,
): Partial<Record<WeightsDtype, SelfTest>> {
  const tests = Object.entries(check.object(value, `${at}selfTest`)).map(([dtype, entry]): [string, SelfTest] => {
    check.oneOf(dtype, `a dtype of ${at}selfTest`, DTYPES);
    const where = `${at}selfTest.${dtype}`;
    const test = check.object(entry, where);
    const seed = check.integer(test.seed, `${where}.seed`, 0, 2 ** 32 - 1);
    const [what, length] = arch.head ? (["logits", classes] as const) : (["features", featureDim(arch)] as const);
    const values = check.list(test[what], `${where}.${what}`, length, length);
    if (!values.every(Number.isFinite)) check.fail(`${where}.${what} holds what is no number.`);
    return [dtype, { seed, [what]: values as number[] }];
  });
  return Object.fromEntries(tests);
}
