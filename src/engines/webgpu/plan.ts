/** A model → the dispatches that compute it, with the data and the activations that each of them binds. */

import { type Feature, refuseUnsupported } from "../../format/features.ts";
import { innerDim, lastRows, type Model, patchGrid, tokenCounts } from "../../format/model.ts";
import { float32 } from "../../format/read.ts";
import {
  type AttentionKind,
  attentionShader,
  attentionUniform,
  explainShader,
  headTable,
  queriesOfTile,
} from "./attention.ts";
import { type PoolKind, pooledRows, pooledWidth, poolShader, unitShader } from "./pool.ts";
import { qkvLayout } from "./product.ts";
import { type RowsKind, turnShader } from "./rows.ts";
import { align4 } from "./shader.ts";
import { type ActivationName, type Binding, type Plan, StepList } from "./steps.ts";
import { lazily, patchCorners, patchesOf, patchOffsets, positionRows, rowsOf, turnsOf } from "./tables.ts";
import type { Target } from "./tiles.ts";
import { joined, packLinear } from "./weights.ts";

/** Of the family, what these kernels compute beside a plain DeiT. */
export const SUPPORTED: readonly Feature[] = [
  "registers",
  "noClassToken",
  "meanPooling",
  "classMeanPooling",
  "pooledNorm",
  "noTokenNorm",
  "activation",
  "swiglu",
  "hiddenNorm",
  "preNorm",
  "qkNorm",
  "normEps",
  "rope",
  "relative",
  "projection",
  "noHead",
  "cosine",
];

/**
 * @param pictures the most that one submission has: tiles are chosen for them
 * @throws SlimViTError `unsupported`, which names what of the network these kernels do not compute
 */
export function makePlan(model: Model, pictures: number, target: Target): Plan {
  refuseUnsupported('Engine "webgpu"', model.manifest, SUPPORTED);
  return new Planner(model, pictures, target).plan();
}

const of = (activation: ActivationName): Binding => ({ activation });

class Planner extends StepList {
  plan(): Plan {
    const { blocks } = this.manifest;
    this.embed();
    blocks.forEach((_, i) => void this.block(i));
    this.classify();
    return this.made;
  }

  private embed(): void {
    const { manifest, model } = this;
    const { embedDim, patchSize: p, prefixTokens, imageSize, blocks, preNorm, normEps, layerNormEps } = manifest;
    const [height, width] = imageSize;
    const { keepIdx } = blocks[0];
    this.need("pixels", 3 * height * width);
    this.product(
      -1,
      "embed",
      lazily(() => packLinear(model.tensors, "patch_embed.proj")),
      {
        inDim: 3 * p * p,
        outDim: embedDim,
        rows: keepIdx.length,
        sourceRows: 3 * height * width,
        pixels: true,
        gathers: true,
        add: "positions",
        prefixTokens,
        statistics: !preNorm,
        buffers: {
          x: of("pixels"),
          offsets: this.constant("offsets", () => patchOffsets(manifest)),
          kept: this.constant("corners", () => patchCorners(manifest, keepIdx)),
          added: this.constant("positions", () => positionRows(model, keepIdx)),
          y: of(preNorm ? "odd" : "even"),
        },
      },
    );
    if (!preNorm) return;
    const norm = { eps: normEps?.pre ?? layerNormEps, denseDim: embedDim };
    this.groupSize.even = embedDim;
    this.need("even", keepIdx.length * align4(embedDim));
    this.need("evenStatistics", 2 * keepIdx.length);
    this.rows(-1, "norm_pre", { norm, skip: prefixTokens, statistics: true }, keepIdx.length, embedDim, {
      x: of("odd"),
      vectors: this.norm("norm_pre"),
      y: of("even"),
      after: of("evenStatistics"),
    });
  }

  private block(i: number): void {
    const { manifest } = this;
    const { embedDim, blocks } = manifest;
    const block = blocks[i];
    const { headDims, keepIdx } = block;
    const counts = tokenCounts(manifest);
    const tokens = counts[i].entering;
    const sourceRows = i > 0 ? counts[i - 1].mlp : tokens;
    const isLast = i === blocks.length - 1;
    const queries = isLast ? lastRows(manifest) : tokens;
    const inner = innerDim(block);
    const gathers = tokens !== sourceRows;
    const kept = this.constant(`blocks.${i}.kept`, () => rowsOf(keepIdx, blocks[i - 1].keepIdx));
    this.explain.push(undefined);
    if (inner > 0) {
      this.need("qkv", qkvLayout(inner, tokens).size);
      this.product(i, "qkv", this.linear(i, "attn.qkv", "norm1"), {
        inDim: embedDim,
        outDim: 3 * inner,
        rows: tokens,
        sourceRows,
        gathers,
        norm: "even",
        qkv: true,
        inner,
        queries,
        buffers: { x: of("even"), kept, y: of("qkv") },
      });
      this.attention(i, headDims, tokens, queries);
    }
    this.product(i, "proj", this.linear(i, "attn.proj"), {
      inDim: inner,
      outDim: embedDim,
      rows: queries,
      sourceRows,
      gathers,
      isDense: true, // the heads' outputs are one after the other, so only the residual is gathered
      add: "residual",
      statistics: block.mlpHidden > 0,
      buffers: { x: of("mixed"), kept, added: of("even"), y: of("odd") },
    });
    this.mlp(i, queries, isLast);
  }

  private mlp(i: number, rows: number, isLast: boolean): void {
    const { embedDim, blocks, mlp, activation, hiddenNorm, normEps, layerNormEps } = this.manifest;
    const width = blocks[i].mlpHidden;
    if (width > 0) {
      const gated = mlp === "swiglu";
      const isTwoSteps = gated || hiddenNorm !== undefined;
      const outDim = gated ? 2 * width : width;
      this.need(isTwoSteps ? "units" : "hidden", rows * align4(outDim));
      this.product(i, "fc1", this.linear(i, "mlp.fc1", "norm2"), {
        inDim: embedDim,
        outDim,
        rows,
        sourceRows: rows,
        norm: "odd",
        activation: gated ? undefined : activation,
        buffers: { x: of("odd"), y: of(isTwoSteps ? "units" : "hidden") },
      });
      if (isTwoSteps) {
        this.need("hidden", rows * align4(width));
        const norm = hiddenNorm ? { eps: normEps?.hidden ?? layerNormEps, denseDim: hiddenNorm } : undefined;
        const kind: RowsKind = { gate: gated ? activation : undefined, norm, skip: 0, statistics: false };
        const vectors = this.norm(`blocks.${i}.mlp.norm`);
        this.rows(i, "mlp.norm", kind, rows, width, { x: of("units"), vectors, y: of("hidden") });
      }
    }
    this.product(i, "fc2", this.linear(i, "mlp.fc2"), {
      inDim: width,
      outDim: embedDim,
      rows,
      sourceRows: rows,
      add: "residual",
      statistics: !isLast,
      buffers: { x: of("hidden"), added: of("odd"), y: of("even") },
    });
  }

  private attention(i: number, headDims: number[], tokens: number, queries: number): void {
    const { manifest, target } = this;
    const { tensors } = this.model;
    const { blocks, classToken, qkNorm, position, headDim, normEps, layerNormEps } = manifest;
    const inner = headDims.reduce((a, b) => a + b, 0);
    const { keepIdx } = blocks[i];
    const t = (key: string) => float32(tensors, `blocks.${i}.attn.${key}`);
    // All blocks have room for the widest head, so that one shader serves them.
    const widest = Math.max(...blocks.flatMap((block) => block.headDims));
    const [rows, columns] = patchGrid(manifest);
    const kind: AttentionKind = {
      scale: 1 / Math.sqrt(headDim),
      width: 8 * Math.ceil(widest / 8),
      lanesY: target.isSoftware ? 4 : 8,
      relative: position === "relative" ? { rows, columns } : undefined,
    };
    const shape = { headDims, tokens, queries, mapRows: classToken ? 1 : tokens };
    const isRope = position === "rope";
    const shared: Record<string, Binding> = {
      shape: { uniform: attentionUniform(shape) },
      heads: this.constant(`blocks.${i}.heads`, () => headTable(headDims)),
      qkv: of("qkv"),
      quads: of("qkv"),
      places: this.constant(`blocks.${i}.places`, () => patchesOf(manifest, keepIdx)),
      table: this.constant(`blocks.${i}.rel_bias`, () => t("rel_bias")),
    };
    if (qkNorm || isRope) {
      const parts = ["q_norm.weight", "q_norm.bias", "k_norm.weight", "k_norm.bias"];
      this.steps.push({
        block: i,
        label: `blocks.${i}.turn`,
        shader: turnShader({ norm: qkNorm ? { eps: normEps?.qk ?? layerNormEps, headDim } : undefined, rope: isRope }),
        buffers: {
          ...shared,
          vectors: this.constant(`blocks.${i}.qk_norm`, () => joined(parts.map(t))),
          turns: this.constant(`blocks.${i}.turns`, () => turnsOf(manifest, keepIdx, t("rope_freqs"))),
        },
        workgroups: (pictures) => [Math.ceil(tokens / 64), 2 * headDims.length, pictures],
      });
    }
    this.need("mixed", queries * align4(inner));
    this.steps.push({
      block: i,
      label: `blocks.${i}.attn`,
      shader: attentionShader(kind),
      buffers: { ...shared, y: of("mixed") },
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

  private classify(): void {
    const { manifest } = this;
    const { embedDim: dim, prefixTokens, layerNormEps, normEps, finalNorm, distilled, projection, head } = manifest;
    const hasTokenNorm = finalNorm === "tokens" || finalNorm === "both";
    const hasPooledNorm = finalNorm === "pooled" || finalNorm === "both";
    const kind: PoolKind = {
      dim,
      tokens: lastRows(manifest),
      prefixTokens,
      pooling: distilled && manifest.pooling === "class" ? "two" : (manifest.pooling as PoolKind["pooling"]),
      tokenEps: hasTokenNorm ? (normEps?.final ?? layerNormEps) : undefined,
      pooledEps: hasPooledNorm ? (normEps?.pooled ?? layerNormEps) : undefined,
    };
    const [rows, width] = [pooledRows(kind), pooledWidth(kind)];
    const names = [hasTokenNorm ? "norm" : "", hasPooledNorm ? "fc_norm" : ""].filter(Boolean);
    const vectors = () =>
      joined(names.flatMap((name) => [`${name}.weight`, `${name}.bias`].map((key) => this.f32(key))));
    const block = manifest.blocks.length;
    this.need("pooled", rows * align4(width));
    this.need("features", rows * align4(projection ?? width));
    this.steps.push({
      block,
      label: "pool",
      shader: poolShader(kind),
      buffers: {
        x: of("even"),
        vectors: this.constant("pool", vectors),
        y: of(projection ? "pooled" : "features"),
      },
      workgroups: (pictures) => [pictures, 1, 1],
    });
    const perRow = { rows, sourceRows: rows };
    if (projection) {
      const packed = lazily(() => packLinear(this.model.tensors, "projection"));
      const buffers = { x: of("pooled"), y: of("features") };
      this.product(block, "projection", packed, { inDim: width, outDim: projection, ...perRow, buffers });
    }
    this.need("logits", align4(manifest.labels.length));
    if (!head) return;
    const featureWidth = projection ?? width;
    if (head.cosine) {
      this.need("unit", rows * align4(featureWidth));
      this.steps.push({
        block,
        label: "unit",
        shader: unitShader(featureWidth),
        buffers: { x: of("features"), y: of("unit") },
        workgroups: (pictures) => [pictures * rows, 1, 1],
      });
    }
    ["head", "head_dist"].slice(0, rows).forEach((name, row) => {
      this.product(
        block,
        name,
        lazily(() => packLinear(this.model.tensors, name)),
        {
          inDim: featureWidth,
          outDim: manifest.labels.length,
          rows: 1,
          sourceRows: rows,
          sourceStart: row,
          add: row ? "average" : undefined,
          buffers: { x: of(head.cosine ? "unit" : "features"), y: of("logits") },
        },
      );
    });
  }
}
