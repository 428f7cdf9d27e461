/** A model → the dispatches that compute it, with the data and the activations that each of them binds. */
import { type BlockShape, type Manifest, type Model, patchGrid } from "../../format/model.ts";
import { float32 } from "../../format/read.ts";
import {
  type AttentionKind,
  attentionShader,
  attentionUniform,
  explainShader,
  headTable,
  queriesOfTile,
} from "./attention.ts";
import { poolShader } from "./pool.ts";
import {
  type ProductKind,
  type ProductShape,
  productShader,
  productUniform,
  qkvLayout,
  tileColumns,
  tileRows,
} from "./product.ts";
import { align4, type Shader } from "./shader.ts";
import { chooseTile, type Target } from "./tiles.ts";
import { joined, type PackedLinear, packLinear } from "./weights.ts";

/** Buffers that a call writes, each of so many floats a picture. */
export type ActivationName =
  | "pixels"
  | "even" // tokens that enter a block
  | "odd" // … and those between attention and MLP
  | "evenStatistics"
  | "oddStatistics"
  | "qkv"
  | "mixed" // heads' outputs
  | "hidden"
  | "features"
  | "logits"
  | "maps"; // the class token's attention in each block

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

/** @param pictures the most that one submission has: tiles are chosen for them */
export function makePlan(model: Model, pictures: number, target: Target): Plan {
  return new Planner(model, pictures, target).plan();
}

class Planner {
  private readonly manifest: Manifest;
  private readonly steps: Step[] = [];
  private readonly explain: (Step | undefined)[] = [];
  private readonly floats: Record<ActivationName, number> = {
    pixels: 0,
    even: 0,
    odd: 0,
    evenStatistics: 0,
    oddStatistics: 0,
    qkv: 0,
    mixed: 0,
    hidden: 0,
    features: 0,
    logits: 0,
    maps: 0,
  };
  /** columns in a group of the statistics of the rows in `even` and in `odd` */
  private readonly groupSize = { even: 1, odd: 1 };
  private mapsEnd = 0;

  constructor(
    private readonly model: Model,
    private readonly pictures: number,
    private readonly target: Target,
  ) {
    this.manifest = model.manifest;
  }

  plan(): Plan {
    const { blocks, prefixTokens } = this.manifest;
    this.embed();
    let alive = blocks[0].keepIdx;
    blocks.forEach((block, i) => {
      const isLast = i === blocks.length - 1;
      this.block(i, block, alive, isLast ? prefixTokens : block.keepIdx.length);
      alive = isLast ? alive.slice(0, prefixTokens) : block.keepIdx;
    });
    this.head();
    const { steps, explain, floats } = this;
    return { steps, explain, floats };
  }

  private embed(): void {
    const { manifest, model } = this;
    const { embedDim, patchSize: p, prefixTokens, imageSize, blocks } = manifest;
    const [height, width] = imageSize;
    const { keepIdx } = blocks[0];
    const packed = lazily(() => packLinear(model.tensors, "patch_embed.proj"));
    this.need("pixels", 3 * height * width);
    this.product(-1, "embed", packed, {
      inDim: 3 * p * p,
      outDim: embedDim,
      rows: keepIdx.length,
      sourceRows: 3 * height * width,
      pixels: true,
      gathers: true,
      add: "positions",
      prefixTokens,
      statistics: true,
      buffers: {
        x: { activation: "pixels" },
        offsets: { constant: { name: "offsets", make: () => patchOffsets(manifest) } },
        kept: { constant: { name: "corners", make: () => patchCorners(manifest, keepIdx) } },
        added: { constant: { name: "positions", make: () => positionRows(model, keepIdx) } },
        y: { activation: "even" },
      },
    });
  }

  /**
   * @param alive tokens that lie in `even`
   * @param queries the first so many are what the next block, or the head, needs
   */
  private block(i: number, { headDims, mlpHidden, keepIdx }: BlockShape, alive: number[], queries: number): void {
    const { embedDim } = this.manifest;
    const { tensors } = this.model;
    const tokens = keepIdx.length;
    const inner = headDims.reduce((sum, width) => sum + width, 0);
    const linear = (name: string, norm?: string) =>
      lazily(() => packLinear(tensors, `blocks.${i}.${name}`, norm && `blocks.${i}.${norm}`));
    const gathers = tokens !== alive.length;
    const kept: Binding = { constant: { name: `blocks.${i}.kept`, make: () => rowsOf(keepIdx, alive) } };
    this.explain.push(undefined);
    if (inner > 0) {
      const { size } = qkvLayout(inner, tokens);
      this.need("qkv", size);
      this.product(i, "qkv", linear("attn.qkv", "norm1"), {
        inDim: embedDim,
        outDim: 3 * inner,
        rows: tokens,
        sourceRows: alive.length,
        gathers,
        norm: "even",
        qkv: true,
        inner,
        queries,
        statistics: false,
        buffers: { x: { activation: "even" }, kept, y: { activation: "qkv" } },
      });
      this.attention(i, headDims, tokens, queries);
    }
    this.product(i, "proj", linear("attn.proj"), {
      inDim: inner,
      outDim: embedDim,
      rows: queries,
      sourceRows: alive.length,
      gathers,
      // The heads' outputs are one after the other, so only the residual is gathered.
      isDense: true,
      add: "residual",
      statistics: mlpHidden > 0,
      buffers: { x: { activation: "mixed" }, kept, added: { activation: "even" }, y: { activation: "odd" } },
    });
    const rows = { rows: queries, sourceRows: queries };
    if (mlpHidden > 0) {
      this.need("hidden", queries * align4(mlpHidden));
      this.product(i, "fc1", linear("mlp.fc1", "norm2"), {
        ...rows,
        inDim: embedDim,
        outDim: mlpHidden,
        norm: "odd",
        activation: "gelu",
        statistics: false,
        buffers: { x: { activation: "odd" }, y: { activation: "hidden" } },
      });
    }
    this.product(i, "fc2", linear("mlp.fc2"), {
      ...rows,
      inDim: mlpHidden,
      outDim: embedDim,
      add: "residual",
      statistics: i < this.manifest.blocks.length - 1,
      buffers: { x: { activation: "hidden" }, added: { activation: "odd" }, y: { activation: "even" } },
    });
  }

  private attention(i: number, headDims: number[], tokens: number, queries: number): void {
    const { manifest, target } = this;
    const stride = align4(headDims.reduce((a, b) => a + b, 0));
    // All blocks have room for the widest head, so that one shader serves them.
    const widest = Math.max(...manifest.blocks.flatMap((block) => block.headDims));
    const kind: AttentionKind = {
      scale: 1 / Math.sqrt(manifest.headDim),
      width: 8 * Math.ceil(widest / 8),
      lanesY: target.isSoftware ? 4 : 8,
    };
    this.need("mixed", queries * stride);
    const shared = {
      shape: { uniform: attentionUniform({ headDims, tokens, queries }) },
      heads: { constant: { name: `blocks.${i}.heads`, make: () => headTable(headDims) } },
      qkv: { activation: "qkv" as const },
    };
    this.steps.push({
      block: i,
      label: `blocks.${i}.attn`,
      shader: attentionShader(kind),
      buffers: { ...shared, quads: { activation: "qkv" }, y: { activation: "mixed" } },
      workgroups: (pictures) => [Math.ceil(queries / queriesOfTile(kind)), headDims.length, pictures],
    });
    const offset = this.mapsEnd;
    this.mapsEnd += Math.ceil(tokens / 64) * 64; // a binding begins at a multiple of 256 bytes
    this.need("maps", this.mapsEnd);
    this.explain[i] = {
      block: i,
      label: `blocks.${i}.explain`,
      shader: explainShader(kind),
      buffers: { ...shared, y: { activation: "maps", offset } },
      workgroups: () => [1, 1, 1],
    };
  }

  private head(): void {
    const { embedDim: dim, prefixTokens, layerNormEps: eps, blocks, labels } = this.manifest;
    const { tensors } = this.model;
    this.need("features", prefixTokens * align4(dim));
    this.need("logits", align4(labels.length));
    const vectors = () => joined([float32(tensors, "norm.weight"), float32(tensors, "norm.bias")]);
    this.steps.push({
      block: blocks.length,
      label: "norm",
      shader: poolShader({ dim, eps }),
      buffers: {
        x: { activation: "even" },
        vectors: { constant: { name: "norm", make: vectors } },
        y: { activation: "features" },
      },
      workgroups: (pictures) => [pictures * prefixTokens, 1, 1],
    });
    ["head", "head_dist"].slice(0, prefixTokens).forEach((name, token) => {
      this.product(
        blocks.length,
        name,
        lazily(() => packLinear(tensors, name)),
        {
          inDim: dim,
          outDim: labels.length,
          rows: 1,
          sourceRows: prefixTokens,
          sourceStart: token,
          add: token ? "average" : undefined,
          statistics: false,
          buffers: { x: { activation: "features" }, y: { activation: "logits" } },
        },
      );
    });
  }

  /** Adds a product, with the bindings that all of them have. */
  private product(
    block: number,
    label: string,
    packed: () => PackedLinear,
    { norm, buffers, inDim, outDim, rows, sourceRows, sourceStart, prefixTokens, inner, queries, ...rest }: NewProduct,
  ): void {
    const { manifest, pictures, target, groupSize } = this;
    const name = block < 0 || block === manifest.blocks.length ? label : `blocks.${block}.${label}`;
    const { form } = packed();
    const tile = chooseTile(pictures * rows, inDim, outDim, target);
    const normEps = norm && manifest.layerNormEps;
    const shape: ProductShape = { inDim, outDim, rows, sourceRows, sourceStart, prefixTokens, inner, queries };
    const out = (buffers.y as { activation: ActivationName }).activation;
    const all: Record<string, Binding> = {
      ...buffers,
      call: "call",
      shape: { uniform: productUniform({ ...shape, groupSize: norm && groupSize[norm] }) },
      weight: { constant: { name: `${name}.weight`, make: () => packed().words } },
      vectors: { constant: { name: `${name}.vectors`, make: () => packed().vectors } },
    };
    if (norm) all.before = { activation: `${norm}Statistics` };
    if (out === "even" || out === "odd") {
      this.need(out, rows * align4(outDim));
      groupSize[out] = tileColumns(tile);
      this.need(`${out}Statistics`, 2 * rows * Math.ceil(outDim / groupSize[out]));
      all.after = { activation: `${out}Statistics` };
    }
    this.steps.push({
      block,
      label: name,
      shader: productShader({ ...rest, form, tile, normEps, packed: target.packed }),
      buffers: all,
      workgroups: (count) => [Math.ceil(outDim / tileColumns(tile)), Math.ceil((count * rows) / tileRows(tile)), 1],
    });
  }

  private need(name: ActivationName, floats: number): void {
    this.floats[name] = Math.max(this.floats[name], floats);
  }
}

interface NewProduct
  extends Omit<ProductKind, "form" | "tile" | "packed" | "normEps">,
    Omit<ProductShape, "groupSize"> {
  /** the rows are normalised with the statistics of these */
  norm?: "even" | "odd";
  buffers: Record<string, Binding>;
}

/** Made when it is first asked for, and once. */
function lazily<T>(make: () => T): () => T {
  let made: T | undefined;
  return () => (made ??= make());
}

/** Where each input of a patch lies from the patch's corner on, four by four. */
function patchOffsets({ patchSize: p, imageSize: [height, width] }: Manifest): Uint32Array {
  const offsets = new Uint32Array(align4(3 * p * p));
  for (let k = 0; k < 3 * p * p; k++) {
    offsets[k] = Math.floor(k / (p * p)) * height * width + (Math.floor(k / p) % p) * width + (k % p);
  }
  return offsets;
}

/** The first pixel of each kept patch; 0 for prefix tokens. */
function patchCorners(manifest: Manifest, keepIdx: number[]): Uint32Array {
  const { patchSize: p, prefixTokens, imageSize } = manifest;
  const columns = patchGrid(manifest)[1];
  return Uint32Array.from(keepIdx, (token) => {
    if (token < prefixTokens) return 0;
    const patch = token - prefixTokens;
    return Math.floor(patch / columns) * p * imageSize[1] + (patch % columns) * p;
  });
}

/** What is added to each embedded token: its position and the embedding's bias, or the whole of a prefix token. */
function positionRows({ manifest, tensors }: Model, keepIdx: number[]): Float32Array {
  const { embedDim, prefixTokens } = manifest;
  const stride = align4(embedDim);
  const position = float32(tensors, "pos_embed");
  const bias = float32(tensors, "patch_embed.proj.bias");
  const rows = new Float32Array(keepIdx.length * stride);
  keepIdx.forEach((token, k) => {
    const content = token >= prefixTokens ? bias : float32(tensors, token === 0 ? "cls_token" : "dist_token");
    for (let d = 0; d < embedDim; d++) rows[k * stride + d] = content[d] + position[token * embedDim + d];
  });
  return rows;
}

/** Positions of `keep` in `alive`. */
function rowsOf(keep: number[], alive: number[]): Uint32Array {
  const row = new Map(alive.map((token, k) => [token, k]));
  return Uint32Array.from(keep, (token) => row.get(token)!);
}
