/** The dispatches of a plan while it is built: their bindings and their numbers of workgroups. */
import type { Manifest, Model } from "../../format/model.ts";
import { float32 } from "../../format/read.ts";
import { type ProductKind, type ProductShape, productShader, productUniform } from "./product.ts";
import { type RowsKind, rowsShader, rowsUniform } from "./rows.ts";
import { align4, type Shader } from "./shader.ts";
import { lazily } from "./tables.ts";
import { chooseTile, type Target, tileColumns, tileRows } from "./tiles.ts";
import { joined, type PackedLinear, packLinear } from "./weights.ts";

const ACTIVATIONS = [
  "pixels",
  "even", // tokens that enter a block
  "odd", // … and those between attention and MLP, …
  "merged", // … after a merge
  "evenStatistics",
  "oddStatistics",
  "mergedStatistics",
  "evenRows", // patches that each token stands for after an even number of merges, and where it lies
  "oddRows",
  "alike", // of each block that merges: the best partners
  "qkv",
  "mixed", // heads' outputs
  "units", // of the MLP, before a gate or a norm
  "hidden",
  "context", // what the heads of attention pooling take
  "pooled", // before a projection
  "features",
  "unit", // features of length 1
  "logits",
  "maps", // the class token's attention in each block
  "pairs", // what merged in each block
] as const;

/** Residual streams, of which each has the statistics of its rows beside it. */
export type StreamName = "even" | "odd" | "merged";

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
  /** left out of a run with forced pairs, which are written in place of its result */
  choosesPairs?: boolean;
}

/** Where the partners of a block that merges lie: in floats from the start of `alike` and of `pairs`. */
export interface MergeStep {
  oddPatches: number;
  alikeAt: number;
  pairsAt: number;
}

export interface Plan {
  steps: Step[];
  /** after the steps of a block, for `explain` */
  explain: (Step | undefined)[];
  /** by block, where tokens merge */
  merges: (MergeStep | undefined)[];
  /** floats a picture; `maps` and `pairs` are of the first one alone */
  floats: Record<ActivationName, number>;
}

interface NewProduct extends Omit<ProductKind, "form" | "tile" | "packed">, Omit<ProductShape, "groupSize"> {
  /** the rows are normalised with the statistics of these, and with an epsilon that is the network's unless it is given */
  norm?: StreamName;
  normEps?: number;
  buffers: Record<string, Binding>;
}

export const of = (activation: ActivationName, offset?: number): Binding => ({ activation, offset });

const isStream = (name: ActivationName): name is StreamName => name === "even" || name === "odd" || name === "merged";

/** The list to which the parts of a network add their dispatches. */
export class StepList {
  protected readonly manifest: Manifest;
  protected readonly steps: Step[] = [];
  protected readonly explain: (Step | undefined)[] = [];
  protected readonly floats = Object.fromEntries(ACTIVATIONS.map((name) => [name, 0])) as Plan["floats"];
  protected readonly merges: (MergeStep | undefined)[] = [];
  /** columns in a group of the statistics of the rows */
  protected readonly groupSize: Record<StreamName, number> = { even: 1, odd: 1, merged: 1 };
  /** after a merge: what each row of the stream stands for; before it, one patch each */
  protected streamRows: Binding | undefined;
  private readonly ends = { maps: 0, pairs: 0, alike: 0 };

  constructor(
    protected readonly model: Model,
    protected readonly pictures: number,
    protected readonly target: Target,
  ) {
    this.manifest = model.manifest;
  }

  get made(): Plan {
    const { steps, explain, merges, floats } = this;
    return { steps, explain, merges, floats };
  }

  /** Adds a product, with the bindings that all of them have. */
  protected product(
    block: number,
    label: string,
    packed: () => PackedLinear,
    {
      norm,
      normEps: ownEps,
      buffers,
      inDim,
      outDim,
      rows,
      sourceRows,
      sourceStart,
      prefixTokens,
      inner,
      queries,
      ...rest
    }: NewProduct,
  ): void {
    const { manifest, pictures, target, groupSize } = this;
    const name = this.nameOf(block, label);
    const { form } = packed();
    const tile = chooseTile(pictures * rows, inDim, outDim, target);
    const normEps = norm && (ownEps ?? manifest.layerNormEps);
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
    if (isStream(out)) {
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
    return this.constant(name, () => joined(this.weightAndBias(name)));
  }

  protected weightAndBias(name: string): Float32Array[] {
    return [this.f32(`${name}.weight`), this.f32(`${name}.bias`)];
  }

  protected nameOf(block: number, label: string): string {
    return block < 0 || block === this.manifest.blocks.length ? label : `blocks.${block}.${label}`;
  }

  protected f32(key: string): Float32Array {
    return float32(this.model.tensors, key);
  }

  /** Reserves a region of `floats` floats. A binding begins at a multiple of 256 bytes. */
  protected region(name: "maps" | "pairs" | "alike", floats: number): number {
    const start = this.ends[name];
    this.ends[name] += Math.ceil(floats / 64) * 64;
    this.need(name, this.ends[name]);
    return name === "alike" ? start * this.pictures : start;
  }

  protected constant(name: string, make: Constant["make"]): Binding {
    return { constant: { name, make } };
  }

  protected need(name: ActivationName, floats: number): void {
    this.floats[name] = Math.max(this.floats[name], floats);
  }
}
