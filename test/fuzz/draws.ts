import { type Model, plainArchitecture, type WeightsDtype } from "../../src/format/model.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { randomModel } from "../helpers.ts";

const VALUES = [
  null,
  true,
  -1,
  -0,
  0,
  1,
  2,
  0.5,
  255,
  65_536,
  2 ** 31,
  2 ** 53,
  1e308,
  1e-320,
  "",
  "..",
  "../x.safetensors",
];

/** Reads choices off bytes, so that a fuzzer that changes bytes changes choices. Past the end all choices are the first. */
export class Draws {
  private at = 0;

  constructor(private readonly bytes: Uint8Array) {}

  get left(): boolean {
    return this.at < this.bytes.length;
  }

  /** from 0 to n − 1, n ≤ 65,536 */
  below(n: number): number {
    let value = this.bytes[this.at++] ?? 0;
    if (n > 256) value = 256 * value + (this.bytes[this.at++] ?? 0);
    return value % n;
  }

  /** Replaces, removes, repeats or wraps one value somewhere below `root`. */
  edit(root: object): void {
    const places = placesOf(root);
    if (!places.length) return; // all has been removed
    const [parent, name] = places[this.below(places.length)];
    const holder = parent as Record<string, unknown>;
    const value = holder[name];
    const kind = this.below(8);
    if (kind === 0) holder[name] = VALUES[this.below(VALUES.length)];
    else if (kind === 1) holder[name] = this.below(65_536) - 256;
    else if (kind === 2) holder[name] = [value];
    else if (kind === 3) holder[name] = { x: value };
    else if (kind === 4 && Array.isArray(parent)) parent.splice(Number(name), 1);
    else if (kind === 4) delete holder[name];
    else if (kind === 5 && Array.isArray(parent)) parent.splice(Number(name), 0, value);
    else if (kind === 6 && typeof value === "number") holder[name] = value + this.below(5) - 2;
    else holder[name] = String.fromCharCode(...Array.from({ length: this.below(8) }, () => this.below(65_536)));
  }

  /** A small slim network of any legal kind, with names and labels of any kind. */
  model(): Model {
    const dtype = (["f32", "f16", "int8"] as WeightsDtype[])[this.below(3)];
    const patchSize = 1 + this.below(3);
    const [rows, columns] = [1 + this.below(4), 1 + this.below(4)];
    const prefixTokens = (1 + this.below(2)) as 1 | 2;
    const headDim = 1 + this.below(9);
    let alive = Array.from({ length: rows * columns + prefixTokens }, (_, k) => k);
    const arch = plainArchitecture({
      imageSize: [rows * patchSize, columns * patchSize],
      patchSize,
      embedDim: 1 + this.below(12),
      headDim,
      layerNormEps: [1e-6, 1e-12, 1e-40, 1, 1e30][this.below(5)],
      prefixTokens,
      blocks: Array.from({ length: 1 + this.below(3) }, () => {
        alive = alive.filter((token) => token < prefixTokens || this.below(4) > 0);
        const headDims = Array.from({ length: this.below(4) }, () => 1 + this.below(headDim));
        return { headDims, mlpHidden: this.below(10), keepIdx: alive };
      }),
    });
    const drawn = randomModel(arch, this.below(256), 1 + this.below(3));
    const name = String.fromCharCode(...Array.from({ length: this.below(300) }, () => this.below(65_536)));
    return { manifest: { ...drawn.manifest, name }, dtype, tensors: encodeTensors(drawn.tensors, dtype) };
  }
}

/** Every value below `root`, by what holds it and its name there. */
function placesOf(root: object): [object, string][] {
  return Object.entries(root).flatMap(([name, value]): [object, string][] => [
    [root, name],
    ...(typeof value === "object" && value !== null ? placesOf(value) : []),
  ]);
}
