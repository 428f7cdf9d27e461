/** A small folder of several variants on disk, and each of them alone. */
import { join } from "node:path";
import { type Model, plainArchitecture, type WeightsDtype } from "../src/format/model.ts";
import { encodeTensors } from "../src/format/write.ts";
import { cutToWidths } from "../tools/elastic/cut.ts";
import { writeElasticFolder } from "../tools/elastic/folder.ts";
import { manifestOf, randomModel, randomValues } from "./helpers.ts";

export const NAMES = ["small", "middle", "large"];

/** Widths of heads and units, largest last. Multiples of 8, so that engine `simd` has all variants at once. */
const WIDTHS: [number[], number][] = [
  [[8], 16],
  [[16, 8], 40],
  [[16, 16], 64],
];

const patches = (count: number) => [...Array(count + 1).keys()];

const archOf = (i: number, width = 32) => {
  const [headDims, mlpHidden] = WIDTHS[i];
  const grid = i === 0 ? 3 : 4;
  const block = { headDims, mlpHidden, keepIdx: patches(grid * grid), merge: i === 1 ? 2 : 0 };
  return plainArchitecture({
    imageSize: [8 * grid, 8 * grid],
    patchSize: 8,
    embedDim: width,
    headDim: 16,
    layerNormEps: 1e-6,
    prefixTokens: 1,
    blocks: [block, { ...block, merge: 0 }],
  });
};

/** @param accuracies of the variants, smallest first; 1, 2 and 3 tenths unless they are given */
export async function writeElastic(
  out: string,
  dtypes: WeightsDtype[] = ["f32"],
  accuracies: (number | undefined)[] = [0.1, 0.2, 0.3],
  width?: number,
): Promise<void> {
  const large = randomModel(archOf(2, width), 3);
  const small = archOf(0, width);
  const positions = {
    dtype: "F32" as const,
    shape: [1, 10, small.embedDim],
    data: randomValues(10 * small.embedDim, 9),
  };
  const variants = NAMES.map((name, i) => {
    const arch = archOf(i, width);
    const accuracy = [{ top1: accuracies[i], n: 100, data: "fruit", split: "val", engine: "simd", dtype: dtypes[0] }];
    const metrics = accuracies[i] === undefined ? {} : { accuracy };
    return {
      name,
      manifest: { ...manifestOf(arch), metrics },
      tensors: (dtype: WeightsDtype) => {
        const cut = cutToWidths(encodeTensors(large.tensors, dtype), large.manifest, arch);
        if (i === 0) cut.set("pos_embed", encodeTensors(new Map([["pos_embed", positions]]), dtype).get("pos_embed")!);
        return cut;
      },
    };
  });
  const { weights: _, format: __, ...draft } = large.manifest;
  await writeElasticFolder(out, { draft: { ...draft, name: "elastic" }, variants, dtypes });
}

export const weightsIn = (folder: string, dtype: WeightsDtype = "f32") =>
  join(folder, `model.${dtype}.safetensors${dtype === "int8" ? ".zz" : ""}`);

export type { Model };
