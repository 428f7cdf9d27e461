/** Writes a folder of several variants, which share one weights file. */
import { join } from "node:path";
import { openWithoutDevice } from "../../src/engines/opening.ts";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { readFamily } from "../../src/format/family.ts";
import type {
  ActivationRanges,
  Manifest,
  SelfTest,
  Tensors,
  WeightsDtype,
  WeightsFile,
} from "../../src/format/model.ts";
import { checkSlabs } from "../../src/format/slabFields.ts";
import { singleVariant, withVariant } from "../../src/format/variants.ts";
import { manifestJson, writeSlabs } from "../../src/format/write.ts";
import {
  ADVICE,
  type ManifestDraft,
  manifestText,
  pack,
  readableManifest,
  selfTest,
  sha256,
  shortened,
  writeFolder,
} from "../models/folders.ts";
import type { Files } from "../models/outputs.ts";

/** One of the networks of the folder. */
export interface ElasticVariant {
  name: string;
  /** with the variant's size, blocks, preprocessing and metrics */
  manifest: Manifest;
  /** in a dtype, as they are to be written: int8 levels have the largest variant's scales */
  tensors: (dtype: WeightsDtype) => Tensors;
}

interface ElasticContent {
  /** the folder's manifest, with the largest variant's own fields */
  draft: ManifestDraft;
  /** smallest first; each one's widths are a part of the next one's */
  variants: ElasticVariant[];
  dtypes: WeightsDtype[];
  /** of the largest variant's int8 weights */
  activations?: ActivationRanges;
  extra?: (manifest: Manifest) => Files;
}

/**
 * The folder gets its name when each variant has been read from the prefix that makes it, and has passed its self-test.
 *
 * @returns the manifest as written; the largest variant is the first of the list, so it is what commands take by default
 * @throws SlimViTError `bad-model` where what would be written cannot be read or computes something else
 */
export async function writeElasticFolder(out: string, content: ElasticContent, replace = false): Promise<Manifest> {
  const { manifest, files, slabs } = encodeElastic(content);
  const written = readableManifest(out, files["slimvit.json"] as string);
  checkSlabs(written, out);
  for (const { dtype } of manifest.weights) {
    for (const { name, slabs: count } of manifest.variants) {
      try {
        const prefix = slabs.get(dtype)!.slice(0, count);
        const model = readFamily(withVariant(written, name), dtype, prefix, join(out, "slimvit.json"));
        (await openWithoutDevice(model, {}, false)).engine.dispose();
      } catch (error) {
        const fault = `variant "${name}" fails in ${dtype}. ${messageOf(error)} ${ADVICE[dtype]}`;
        throw new SlimViTError("bad-model", `${out}: is not written, because ${fault}`);
      }
    }
  }
  writeFolder(out, files, replace);
  return manifest;
}

/** The folder's files, and the slabs of each weights file as they are unpacked. */
export function encodeElastic({ draft, variants, dtypes, activations, extra }: ElasticContent) {
  const slabs = new Map<WeightsDtype, Uint8Array[]>();
  const files: Files = {};
  const weights: WeightsFile[] = [];
  const selfTests = variants.map((): Partial<Record<WeightsDtype, SelfTest>> => ({}));
  for (const dtype of dtypes) {
    const encoded = variants.map(({ manifest, tensors }) => ({ manifest, tensors: tensors(dtype) }));
    const parts = writeSlabs(encoded);
    slabs.set(dtype, parts);
    const { file, content, entry } = weightsFile(dtype, parts);
    files[file] = content;
    weights.push({ ...entry, ...(dtype === "int8" && activations && { activations: shortened(activations) }) });
    for (const [i, { manifest, tensors }] of encoded.entries())
      selfTests[i][dtype] = selfTest(manifest, dtype, tensors);
  }
  const manifest = singleVariant({ ...draft, weights });
  manifest.variants = variants
    .map(({ name, manifest: own }, i) => {
      const [{ imageSize, blocks, macs, metrics, preprocess, rope }] = singleVariant(own).variants;
      const shared = { name, imageSize, blocks, macs, metrics, preprocess, ...(rope && { rope }) };
      return { ...shared, slabs: i + 1, selfTest: selfTests[i] };
    })
    .reverse();
  manifest.variant = manifest.variants[0].name;
  const selected = withVariant(manifest, manifest.variant);
  files["slimvit.json"] = manifestText(manifestJson(selected));
  Object.assign(files, extra?.(selected));
  return { manifest: selected, files, slabs };
}

function weightsFile(dtype: WeightsDtype, parts: Uint8Array[]) {
  const isPacked = dtype === "int8";
  const stored = isPacked ? parts.map(pack) : parts;
  const file = `model.${dtype}.safetensors${isPacked ? ".zz" : ""}`;
  const content = new Uint8Array(Buffer.concat(stored));
  const unpackedBytes = parts.reduce((sum, part) => sum + part.length, 0);
  const entry: WeightsFile = {
    dtype,
    file,
    bytes: content.length,
    ...(isPacked && { unpackedBytes }),
    sha256: sha256(new Uint8Array(Buffer.concat(parts))),
    slabs: parts.map((part, i) => ({
      bytes: stored[i].length,
      ...(isPacked && { unpackedBytes: part.length }),
      sha256: sha256(part),
    })),
  };
  return { file, content, entry };
}
