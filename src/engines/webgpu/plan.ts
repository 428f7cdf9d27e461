/** A model → the dispatches that compute it, with the data and the activations that each of them binds. */

import { SlimViTError } from "../../errors.ts";
import { innerDim, lastRows, type Model, patchGrid, tokenCounts } from "../../format/model.ts";
import {
  type AttentionKind,
  attentionShader,
  attentionUniform,
  explainShader,
  headTable,
  queriesOfTile,
} from "./attention.ts";
import { HeadPlan } from "./headPlan.ts";
import {
  ALIKE_TILE,
  alikeShader,
  MERGE_ROWS,
  MOST_ODD_PATCHES,
  mergeShader,
  mergeUniform,
  oddPatches,
} from "./merge.ts";
import { qkvLayout } from "./product.ts";
import { type RowsKind, turnShader } from "./rows.ts";
import { align4 } from "./shader.ts";
import { type Binding, of, type Plan, type StreamName } from "./steps.ts";
import {
  lazily,
  patchCorners,
  patchesOf,
  patchOffsets,
  positionRows,
  rowsBeforeMerges,
  rowsOf,
  turnsOf,
} from "./tables.ts";
import type { Target } from "./tiles.ts";
import { joined, packLinear } from "./weights.ts";

/**
 * @param pictures the most that one submission has: tiles are chosen for them
 * @throws SlimViTError `unsupported` for more patches than these kernels can merge
 */
export function makePlan(model: Model, pictures: number, target: Target): Plan {
  return new Planner(model, pictures, target).plan();
}

class Planner extends HeadPlan {
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
    const { keepIdx } = block;
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
      this.attention(i, tokens, queries);
    }
    this.product(i, "proj", this.linear(i, "attn.proj"), {
      inDim: inner,
      outDim: embedDim,
      rows: queries,
      sourceRows,
      gathers,
      isDense: true, // the heads' outputs are one after the other, so only the residual is gathered
      add: "residual",
      statistics: block.mlpHidden > 0 && block.merge === 0,
      buffers: { x: of("mixed"), kept, added: of("even"), y: of("odd") },
    });
    this.mlp(i, this.merge(i, tokens), queries - block.merge);
  }

  /** @param stream that it reads and adds to */
  private mlp(i: number, stream: StreamName, rows: number): void {
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
        norm: stream,
        activation: gated ? undefined : activation,
        buffers: { x: of(stream), y: of(isTwoSteps ? "units" : "hidden") },
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
      statistics: i < blocks.length - 1 || this.hasTokenNorm,
      buffers: { x: of("hidden"), added: of(stream), y: of("even") },
    });
  }

  /** Norms of queries and keys, and RoPE, where the network has them; then every head in one dispatch. */
  private attention(i: number, tokens: number, queries: number): void {
    const { manifest, target, streamRows } = this;
    const { blocks, classToken, position, headDim } = manifest;
    const { headDims, keepIdx } = blocks[i];
    // All blocks have room for the widest head, so that one shader serves them.
    const widest = Math.max(...blocks.flatMap((block) => block.headDims));
    const [rows, columns] = patchGrid(manifest);
    const kind: AttentionKind = {
      width: 8 * Math.ceil(widest / 8),
      lanesY: target.isSoftware ? 4 : 8,
      relative: position === "relative" ? { rows, columns } : undefined,
      sizes: streamRows !== undefined,
    };
    const shape = { scale: 1 / Math.sqrt(headDim), headDims, tokens, queries, mapRows: classToken ? 1 : tokens };
    const shared: Record<string, Binding> = {
      shape: { uniform: attentionUniform(shape) },
      heads: this.constant(`blocks.${i}.heads`, () => headTable(headDims)),
      qkv: of("qkv"),
      quads: of("qkv"),
      places: this.constant(`blocks.${i}.places`, () => patchesOf(manifest, keepIdx)),
      table: this.constant(`blocks.${i}.rel_bias`, () => this.f32(`blocks.${i}.attn.rel_bias`)),
      ...(streamRows && { rows: streamRows }),
    };
    this.turn(i, tokens, shared);
    this.need("mixed", queries * align4(innerDim(blocks[i])));
    this.steps.push({
      block: i,
      label: `blocks.${i}.attn`,
      shader: attentionShader(kind),
      buffers: { ...shared, y: of("mixed") },
      workgroups: (pictures) => [Math.ceil(queries / queriesOfTile(kind)), headDims.length, pictures],
    });
    this.explain[i] = {
      block: i,
      label: `blocks.${i}.explain`,
      shader: explainShader(kind),
      buffers: { ...shared, y: of("maps", this.region("maps", tokens)) },
      workgroups: () => [1, 1, 1],
    };
  }

  private turn(i: number, tokens: number, shared: Record<string, Binding>): void {
    const { qkNorm, position, headDim, normEps, layerNormEps, blocks } = this.manifest;
    if (!qkNorm && position !== "rope") return;
    const t = (key: string) => this.f32(`blocks.${i}.attn.${key}`);
    const { headDims, keepIdx } = blocks[i];
    const parts = ["q_norm.weight", "q_norm.bias", "k_norm.weight", "k_norm.bias"];
    this.steps.push({
      block: i,
      label: `blocks.${i}.turn`,
      shader: turnShader({
        norm: qkNorm ? { eps: normEps?.qk ?? layerNormEps, headDim } : undefined,
        rope: position === "rope" && (this.streamRows ? "merged" : "known"),
      }),
      buffers: {
        ...shared,
        vectors: this.constant(`blocks.${i}.qk_norm`, () => joined(parts.map(t))),
        turns: this.constant(`blocks.${i}.turns`, () => turnsOf(this.manifest, keepIdx, t("rope_freqs"))),
        frequencies: this.constant(`blocks.${i}.rope_freqs`, () => t("rope_freqs")),
      },
      workgroups: (pictures) => [Math.ceil(tokens / 64), 2 * headDims.length, pictures],
    });
  }

  /** Merges tokens from stream `odd` into `merged`, where the block does so. @returns the stream that its MLP reads */
  private merge(i: number, tokens: number): StreamName {
    const { manifest } = this;
    const { embedDim: dim, prefixTokens, blocks } = manifest;
    const { merge, keepIdx, headDims } = blocks[i];
    this.merges.push(undefined);
    if (!merge) return "odd";
    const odd = oddPatches(tokens, prefixTokens);
    const most = Math.max(...tokenCounts(manifest).map(({ entering }) => oddPatches(entering, prefixTokens)));
    if (most > MOST_ODD_PATCHES)
      throw new SlimViTError(
        "unsupported",
        `Engine "webgpu" merges at most ${2 * MOST_ODD_PATCHES} patches, and a block of ${manifest.name} has ${2 * most}. ` +
          'Use engine "simd" for this model.',
      );
    const [alikeAt, pairsAt] = [this.region("alike", 2 * odd), this.region("pairs", odd)];
    const before = this.streamRows;
    const after = this.merges.filter(Boolean).length % 2 ? "evenRows" : "oddRows";
    this.merges[i] = { oddPatches: odd, alikeAt, pairsAt };
    this.steps.push({
      block: i,
      label: `blocks.${i}.alike`,
      choosesPairs: true,
      shader: alikeShader({ prefixTokens }),
      buffers: {
        shape: { uniform: attentionUniform({ scale: 1, headDims, tokens, queries: tokens }) },
        qkv: of("qkv"),
        y: of("alike", alikeAt),
      },
      workgroups: (count) => [Math.ceil(odd / ALIKE_TILE), 1, count],
    });
    const left = tokens - merge;
    this.need("merged", left * align4(dim));
    this.need("mergedStatistics", 2 * left);
    this.groupSize.merged = dim;
    this.need(after, 4 * left);
    this.steps.push({
      block: i,
      label: `blocks.${i}.merge`,
      shader: mergeShader({ dim, prefixTokens, most }),
      buffers: {
        shape: { uniform: mergeUniform(tokens, merge, before !== undefined) },
        x: of("odd"),
        alike: of("alike", alikeAt),
        rowsBefore: before ?? this.constant(`blocks.${i}.rows`, () => rowsBeforeMerges(manifest, keepIdx)),
        y: of("merged"),
        after: of("mergedStatistics"),
        rowsAfter: of(after),
        pairs: of("pairs", pairsAt),
      },
      workgroups: (count) => [Math.ceil(left / MERGE_ROWS), 1, count],
    });
    this.streamRows = of(after);
    return "merged";
  }
}
