/** The dispatches of a plan, as they are put together: what each binds, and how it is shared out. */
import type { Manifest, Model } from "../../format/model.ts";
import { float32 } from "../../format/read.ts";
import {
  type ProductKind,
  type ProductShape,
  productShader,
  productUniform,
  tileColumns,
  tileRows,
} from "./product.ts";
import { type RowsKind, rowsShader, rowsUniform } from "./rows.ts";
import { align4, type Shader } from "./shader.ts";
import { lazily } from "./tables.ts";
import { chooseTile, type Target } from "./tiles.ts";
import { joined, type PackedLinear, packLinear } from "./weights.ts";

const ACTIVATIONS = [
  "pixels",
  "even", // tokens that enter a block
  "odd", // … and those between attention and MLP
  "evenStatistics",
  "oddStatistics",
  "qkv",
  "mixed", // heads' outputs
  "units", // of the MLP, before a gate or a norm
  "hidden",
  "pooled", // before a projection
  "features",
  "unit", // features of length 1
  "logits",
  "maps", // the class token's attention in each block
] as const;

/** Buffers that a call writes, each of so many floats a picture. */
export type ActivationName = (typeof ACTIVATIONS)[number];

/** Data that stay on the GPU, made when they are uploaded: a model has them once however many plans it has. */
export interface Constant {
  name: string;
  make(): Float32Array | Uint32Array;
}

export type Binding =
  | { activation: ActivationName; offset?: number }
  | { constant: Constant }
  | { uniform: Uint32Array }
  | "call";

export interface Step {
  /** of this block; -1 for the embedding, `blocks.length` for the head */
  block: number;
  label: string;
  shader: Shader;
  buffers: Record<string, Binding>;
  workgroups(pictures: number): [number, number, number];
}

export interface Plan {
  steps: Step[];
  /** after the steps of a block, for `explain` */
  explain: (Step | undefined)[];
  /** floats a picture */
  floats: Record<ActivationName, number>;
}

interface NewProduct
  extends Omit<ProductKind, "form" | "tile" | "packed" | "normEps">,
    Omit<ProductShape, "groupSize"> {
  /** the rows are normalised with the statistics of these */
  norm?: "even" | "odd";
  buffers: Record<string, Binding>;
}

const of = (activation: ActivationName): Binding => ({ activation });

/** What the parts of a network add their dispatches to. */
export class StepList {
  protected readonly manifest: Manifest;
  protected readonly steps: Step[] = [];
  protected readonly explain: (Step | undefined)[] = [];
  protected readonly floats = Object.fromEntries(ACTIVATIONS.map((name) => [name, 0])) as Plan["floats"];
  /** columns in a group of the statistics of the rows in `even` and in `odd` */
  protected readonly groupSize = { even: 1, odd: 1 };
  protected mapsEnd = 0;

  constructor(
    protected readonly model: Model,
    protected readonly pictures: number,
    protected readonly target: Target,
  ) {
    this.manifest = model.manifest;
  }

  get made(): Plan {
    const { steps, explain, floats } = this;
    return { steps, explain, floats };
  }

  /** Adds a product, with the bindings that all of them have. */
  protected product(
    block: number,
    label: string,
    packed: () => PackedLinear,
    { norm, buffers, inDim, outDim, rows, sourceRows, sourceStart, prefixTokens, inner, queries, ...rest }: NewProduct,
  ): void {
    const { manifest, pictures, target, groupSize } = this;
    const name = this.nameOf(block, label);
    const { form } = packed();
    const tile = chooseTile(pictures * rows, inDim, outDim, target);
    const normEps = norm && manifest.layerNormEps;
    const shape: ProductShape = { inDim, outDim, rows, sourceRows, sourceStart, prefixTokens, inner, queries };
    const out = (buffers.y as { activation: ActivationName }).activation;
    const all: Record<string, Binding> = {
      ...buffers,
      call: "call",
      shape: { uniform: productUniform({ ...shape, groupSize: norm && groupSize[norm] }) },
      weight: this.constant(`${name}.weight`, () => packed().words),
      vectors: this.constant(`${name}.vectors`, () => packed().vectors),
    };
    if (norm) all.before = of(`${norm}Statistics`);
    if (out === "even" || out === "odd") {
      this.need(out, rows * align4(outDim));
      groupSize[out] = tileColumns(tile);
      this.need(`${out}Statistics`, 2 * rows * Math.ceil(outDim / groupSize[out]));
      all.after = of(`${out}Statistics`);
    }
    this.steps.push({
      block,
      label: name,
      shader: productShader({ ...rest, form, tile, normEps, packed: target.packed }),
      buffers: all,
      workgroups: (count) => [Math.ceil(outDim / tileColumns(tile)), Math.ceil((count * rows) / tileRows(tile)), 1],
    });
  }

  /** Adds what is done to whole rows. */
  protected rows(
    block: number,
    label: string,
    kind: RowsKind,
    rows: number,
    width: number,
    buffers: Record<string, Binding>,
  ): void {
    this.steps.push({
      block,
      label: this.nameOf(block, label),
      shader: rowsShader(kind),
      buffers: { ...buffers, shape: { uniform: rowsUniform(rows, width) } },
      workgroups: (pictures) => [pictures * rows, 1, 1],
    });
  }

  protected linear(block: number, name: string, norm?: string): () => PackedLinear {
    const at = (key: string) => `blocks.${block}.${key}`;
    return lazily(() => packLinear(this.model.tensors, at(name), norm && at(norm)));
  }

  /** Weight and bias of a norm, one after the other. */
  protected norm(name: string): Binding {
    return this.constant(name, () => joined([this.f32(`${name}.weight`), this.f32(`${name}.bias`)]));
  }

  protected nameOf(block: number, label: string): string {
    return block < 0 || block === this.manifest.blocks.length ? label : `blocks.${block}.${label}`;
  }

  protected f32(key: string): Float32Array {
    return float32(this.model.tensors, key);
  }

  protected constant(name: string, make: Constant["make"]): Binding {
    return { constant: { name, make } };
  }

  protected need(name: ActivationName, floats: number): void {
    this.floats[name] = Math.max(this.floats[name], floats);
  }
}
