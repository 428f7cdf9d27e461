/**
 * What `npm run fuzz` throws bytes at: each reader of files that come from anyone, and the ONNX writer. A target returns
 * when its reader read the bytes or refused them with a SlimViTError, and throws for anything else. Time and memory are
 * bounded by the fuzzer. test/robustness/fuzz.test.ts runs the same targets on their seeds and on all that was found.
 */
import sharp from "sharp";
import { writeOnnx } from "../../src/engines/onnx/graph.ts";
import { SlimViTError } from "../../src/errors.ts";
import { readFamily } from "../../src/format/family.ts";
import { encodeFloat16 } from "../../src/format/float16.ts";
import {
  countMacs,
  countParams,
  type Manifest,
  type Model,
  plainArchitecture,
  tensorShapes,
  type WeightsDtype,
} from "../../src/format/model.ts";
import { readManifest, readModel } from "../../src/format/read.ts";
import { readSafetensors, writeSafetensors } from "../../src/format/safetensors.ts";
import { checkSlabs } from "../../src/format/slabFields.ts";
import { encodeTensors, manifestJson, writeWeights } from "../../src/format/write.ts";
import { imageSize } from "../../src/image/imageSize.ts";
import { FAMILY } from "../family.ts";
import { manifestOf, randomModel } from "../helpers.ts";
import { nestedFamily } from "../nested.ts";
import { hostilePictures } from "../robustness/pictures.ts";
import { Draws } from "./draws.ts";
import { checkOnnx } from "./onnx-reader.ts";

export interface Target {
  seeds: () => Uint8Array[] | Promise<Uint8Array[]>;
  /** words of the format, for the fuzzer to try */
  words?: string[];
  /** @throws for what counts as a find */
  fuzz: (bytes: Uint8Array) => unknown;
}

const range = (n: number) => Array.from({ length: n }, (_, k) => k);
const arch = plainArchitecture({
  imageSize: [4, 8],
  patchSize: 2,
  embedDim: 4,
  headDim: 8,
  layerNormEps: 1e-6,
  prefixTokens: 1,
  blocks: [
    { headDims: [8, 3], mlpHidden: 5, keepIdx: range(9) },
    { headDims: [], mlpHidden: 0, keepIdx: [0, 2, 5] },
  ],
});
const dtypes: WeightsDtype[] = ["f32", "f16", "int8"];
const small = randomModel(arch, 1, 2);
const manifest: Manifest = {
  ...small.manifest,
  weights: dtypes.map((dtype) => ({
    dtype,
    file: `model.${dtype}.safetensors`,
    bytes: 1000,
    sha256: "0".repeat(64),
  })),
};
manifest.variants[0].selfTest = Object.fromEntries(dtypes.map((dtype) => [dtype, { seed: 1, logits: [0, 1] }]));
const nested = nestedFamily(small, 2, 5, (width) => width >> 1);
const firstSlab = Object.fromEntries(dtypes.map((dtype) => [dtype, nested.weights(dtype).slabs[0]]));
const withSlabs: Manifest = {
  ...nested.manifest,
  weights: dtypes.map((dtype) => ({
    dtype,
    file: `model.${dtype}.safetensors`,
    bytes: 1000,
    sha256: "0".repeat(64),
    slabs: [400, 600].map((bytes) => ({ bytes, sha256: "0".repeat(64) })),
  })),
};
const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);
const weightsOf = (dtype: WeightsDtype, step?: number) => writeWeights(encodeTensors(small.tensors, dtype, step));

/** @returns what was read, or undefined where it was refused as it should be */
function read<T>(work: () => T, code = "bad-model", name = "x: "): T | undefined {
  try {
    return work();
  } catch (error) {
    if (error instanceof SlimViTError && error.code === code && error.message.startsWith(name)) return undefined;
    throw error;
  }
}

/** The manifest as version 1 has it. */
function versionOne(): object {
  const { variants, variant: _, ...rest } = manifest;
  const weights = rest.weights.map((entry) => ({ ...entry, selfTest: variants[0].selfTest![entry.dtype] }));
  return { ...rest, format: "slimvit/1", weights };
}

/** A safetensors file whose two tensors are the same byte. */
function sameBytesTwice(): Uint8Array {
  const one = (value: number) => ({ dtype: "U8" as const, shape: [1], data: Uint8Array.of(value) });
  const file = Buffer.from(writeSafetensors(new Map(["a", "b"].map((name, k) => [name, one(k)]))));
  file.write("[0,1]", file.indexOf("[1,2]"));
  return Uint8Array.from(file.subarray(0, -1));
}

function expect(isTrue: boolean, fault: string): void {
  if (!isTrue) throw new Error(fault);
}

const JSON_WORDS = ["null", "true", "-0", "1e999", "0.5", "9007199254740993", '"__proto__":', '"\\u0000"', "[[", "{}"];

export const TARGETS: Record<string, Target> = {
  /** The container alone: what is read tiles the file, element by element. */
  safetensors: {
    seeds: () => [
      ...dtypes.map(weightsOf),
      writeSafetensors(new Map([["w", { dtype: "I64", shape: [1], data: BigInt64Array.of(1n) }]]), { a: "b" }),
      writeSafetensors(new Map([["", { dtype: "BOOL", shape: [0, 3], data: new Uint8Array(0) }]])),
      sameBytesTwice(),
    ],
    words: ["F64", "BF16", "I64", "BOOL", '"dtype":', '"shape":', '"data_offsets":', "__metadata__", ...JSON_WORDS],
    fuzz(bytes) {
      const tensors = read(() => readSafetensors(bytes, "x"));
      if (!tensors) return;
      let total = 8 + new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
      for (const { shape, data } of tensors.values()) {
        expect(data.length === shape.reduce((a, b) => a * b, 1), `${data.length} values of shape ${shape}`);
        total += data.byteLength;
      }
      expect(total === bytes.length, `${total} bytes out of ${bytes.length}`);
    },
  },

  /** As a weights file of a known network: the first byte chooses the dtype. What is read is finite and complete. */
  weights: {
    seeds: () => [
      ...dtypes.map((dtype, k) => Uint8Array.of(k, ...weightsOf(dtype))),
      Uint8Array.of(1, ...weightsOf("f16").subarray(0, -2), 1, 0x7c), // NaN
      Uint8Array.of(2, ...weightsOf("int8", 0.6)), // scales in f16
    ],
    fuzz(bytes) {
      const dtype = dtypes[(bytes[0] ?? 0) % 3];
      const model = read(() => readModel(manifest, dtype, bytes.subarray(1), "x"));
      if (!model) return;
      for (const [key, shape] of tensorShapes(manifest, 2)) {
        const values = encodeTensors(new Map(model.tensors), "f32").get(key)!;
        expect(values.data.every(Number.isFinite), `${key} holds what is no number`);
        expect(values.data.length === shape.reduce((a, b) => a * b, 1), `${key} is short`);
      }
    },
  },

  /** The second slab of a file of two variants: the first byte chooses the dtype. Both variants are finite and complete. */
  slabs: {
    seeds: () => dtypes.map((dtype, k) => Uint8Array.of(k, ...nested.weights(dtype).slabs[1])),
    words: [".more", "blocks.0.mlp.fc2.weight.more", '"dtype":', '"shape":', '"data_offsets":', ...JSON_WORDS],
    fuzz(bytes) {
      const dtype = dtypes[(bytes[0] ?? 0) % 3];
      const model = read(() => readFamily(nested.manifest, dtype, [firstSlab[dtype], bytes.subarray(1)], "x"));
      if (!model) return;
      for (const name of nested.names) {
        const { manifest, tensors } = model.family!.model(name);
        for (const [key, shape] of tensorShapes(manifest, 2)) {
          const { data } = encodeTensors(new Map(tensors), "f32").get(key)!;
          expect(data.every(Number.isFinite), `${name}: ${key} holds what is no number`);
          expect(data.length === shape.reduce((a, b) => a * b, 1), `${name}: ${key} is short`);
        }
      }
    },
  },

  /** Text, as a server sends it. */
  manifest: {
    seeds: () => [
      ...[manifest, withSlabs, manifestOf(arch), ...Object.values(FAMILY).map((of) => manifestOf(of, 2))].map((value) =>
        utf8(JSON.stringify(manifestJson(value))),
      ),
      utf8("{}"),
      utf8(JSON.stringify(versionOne())),
      utf8(JSON.stringify(manifest).replace("model.f32", "../model.f32")),
    ],
    words: [...Object.keys(manifest).map((key) => `"${key}":`), "bicubic", "int8", ...JSON_WORDS],
    fuzz(bytes) {
      checkManifest(read(() => readManifest(new TextDecoder().decode(bytes), "x")));
    },
  },

  /** The same with every mutation valid JSON: the bytes choose values of a good manifest and what takes their place. */
  "manifest-edits": {
    seeds: () => [new Uint8Array(0), Uint8Array.of(3, 1, 0, 9), Uint8Array.from(range(64)), utf8("keepIdx 12345")],
    fuzz(bytes) {
      const draws = new Draws(bytes);
      const bases = [
        manifestJson(manifest),
        manifestJson(withSlabs),
        versionOne(),
        ...Object.values(FAMILY).map((of) => manifestJson(manifestOf(of, 2))),
      ];
      const root = { manifest: JSON.parse(JSON.stringify(bases[draws.below(bases.length)])) };
      for (let edits = 0; edits < 4 && draws.left; edits++) draws.edit(root);
      checkManifest(read(() => readManifest(JSON.stringify(root.manifest) ?? "", "x")));
    },
  },

  /** No decoder may find a larger picture than was read: the bound on pixels rests on it. */
  pictures: {
    seeds: async () => (await hostilePictures()).map(({ bytes }) => bytes).filter(({ length }) => length < 4096),
    words: ["VP8X", "VP8L", "VP8 ", "ispe", "ftypavif", "GIF87a", "IHDR", "\xff\xc2", "\xff\xe1"],
    async fuzz(bytes) {
      const size = imageSize(bytes);
      if (!size) return;
      expect(size.every(Number.isInteger), `a size of ${size}`);
      if (Math.min(...size) < 1) return; // refused unread, though libvips makes 1 of a GIF's 0
      // sharp has libjpeg-turbo, libwebp, giflib's heirs and libpng in common with the browsers
      const found = await sharp(bytes, { limitInputPixels: false })
        .metadata()
        .catch(() => undefined);
      if (!found || found.format === "svg" || found.format === "heif") return;
      const height = found.pageHeight ?? found.height;
      expect(
        found.width * height <= size[0] * size[1],
        `${found.format} of ${found.width}×${height} was read as ${size[0]}×${size[1]}`,
      );
    },
  },

  /** Any network that the readers let through becomes a graph that is whole by ONNX's own rules. */
  "onnx-writer": {
    seeds: () => range(6).map((k) => Uint8Array.from(range(40), (v) => (v * (2 * k + 1) * 37) % 256)),
    fuzz(bytes) {
      const model = new Draws(bytes).model();
      const read = readModel(
        readManifest(JSON.stringify(model.manifest), "x"),
        model.dtype,
        writeWeights(model.tensors),
        "x",
      );
      checkOnnx(writeOnnx(read), read.manifest);
      const half: Model = { ...read, tensors: encodeTensors(read.tensors, "f32") };
      checkOnnx(writeOnnx(half, { half: encodeFloat16 }), read.manifest);
    },
  },
};

/** What the rest of the package does with a manifest, before any weights. */
function checkManifest(found: Manifest | undefined): void {
  if (!found) return;
  const { labels, weights, blocks } = found;
  read(() => checkSlabs(found, "x"));
  const again = readManifest(JSON.stringify(manifestJson(found)), "y");
  expect(JSON.stringify(again.variants) === JSON.stringify(found.variants), "is written as another");
  for (const count of [countParams(found, labels.length), countMacs(found, labels.length)])
    expect(Number.isFinite(count) && count >= 0, `counts ${count}`);
  for (const { file } of weights)
    expect(new URL(file, "https://a/b/").href === `https://a/b/${file}`, `${file} lies outside`);
  for (const { keepIdx } of blocks) expect(keepIdx.every(Number.isSafeInteger), "keeps what is no token");
}
