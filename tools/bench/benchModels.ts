/** The inputs of benchmarks: model folders, some with random weights, and a picture. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SlimViTError } from "../../src/errors.ts";
import type { ActivationRanges, Manifest, Model, WeightsDtype } from "../../src/format/model.ts";
import { singleVariant } from "../../src/format/variants.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { preprocess, type RawImage } from "../../src/image/resample.ts";
import { type ManifestDraft, writeModel } from "../models/folders.ts";
import { randomShape } from "../models/shapes.ts";
import { widenBy } from "../quantise/activations.ts";
import { random } from "../shared/random.ts";

/**
 * Model folders by name; those of random weights are written for as long as `work` takes.
 *
 * @param isCalibrated whether their int8 weights have ranges of activations, without which `webnn` computes in f32
 */
export async function withFolders<T>(
  names: string[],
  dtypes: WeightsDtype[] | undefined,
  isCalibrated: boolean,
  work: (sources: string[]) => Promise<T>,
): Promise<T> {
  const temporary = mkdtempSync(join(tmpdir(), "slimvit-bench-"));
  try {
    const sources: string[] = [];
    for (const name of names) {
      const shape = randomShape(name);
      const folder = shape ? join(temporary, name.slice("random:".length)) : name;
      if (shape)
        await writeModel(folder, {
          ...shape,
          dtypes: dtypes ?? ["f32"],
          ...(isCalibrated && { activations: rangesOn(shape) }),
        });
      sources.push(folder);
    }
    return await work(sources);
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}

/** The dtypes that are measured: those of `asked` that the model has, or all that it has. */
export function timedDtypes(source: string, { weights }: Manifest, asked?: WeightsDtype[]): WeightsDtype[] {
  const has = weights.map(({ dtype }) => dtype);
  const dtypes = asked ? asked.filter((dtype) => has.includes(dtype)) : has;
  if (!dtypes.length) throw new SlimViTError("bad-option", `${source}: has no ${asked?.join(" or ")} weights.`);
  return dtypes;
}

/** Activation ranges of the int8 weights from the test picture alone: enough for speed, not for accuracy. */
export function rangesOn({ draft, tensors }: { draft: ManifestDraft; tensors: Model["tensors"] }): ActivationRanges {
  const manifest = singleVariant({ ...draft, weights: [] });
  const ranges: ActivationRanges = {};
  const model: Model = { manifest, dtype: "int8", tensors: encodeTensors(tensors, "int8") };
  widenBy(ranges, model, preprocess(testImage(), manifest.preprocess));
  return ranges;
}

/** Smooth random blobs: a picture of no class that still has edges and colours. */
export function testImage(): RawImage {
  const [width, height] = [320, 256];
  const rng = random(7);
  const waves = Array.from({ length: 12 }, () => [rng() * 0.1, rng() * 0.1, rng() * 6.28, Math.floor(rng() * 3)]);
  const data = new Uint8ClampedArray(width * height * 4).fill(255);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++) {
        let v = 128;
        for (const [fx, fy, phase, channel] of waves) if (channel === c) v += 40 * Math.sin(fx * x + fy * y + phase);
        data[(y * width + x) * 4 + c] = v;
      }
    }
  }
  return { data, width, height };
}
