/** The dispatches after the last block: pooling, projection and head. */
import { lastRows, tokenCounts } from "../../format/model.ts";
import {
  attentionPoolShader,
  type PoolKind,
  pooledRows,
  pooledWidth,
  poolShader,
  type TokenPoolKind,
  unitShader,
} from "./pool.ts";
import { align4 } from "./shader.ts";
import { type ActivationName, type Binding, of, StepList } from "./steps.ts";
import { lazily } from "./tables.ts";
import { joined, packLinear } from "./weights.ts";

export class HeadPlan extends StepList {
  protected get hasTokenNorm(): boolean {
    return /tokens|both/.test(this.manifest.finalNorm);
  }

  protected classify(): void {
    const { pooling, distilled, projection, head, labels, blocks } = this.manifest;
    const { dim, pooledEps } = this.poolSizes();
    const rows = pooledRows({ pooling: pooling === "class" && distilled ? "two" : "class" });
    const width = pooling === "class+mean" ? pooledWidth({ pooling, dim }) : dim;
    const block = blocks.length;
    this.need("pooled", rows * align4(width));
    this.need("features", rows * align4(projection ?? width));
    const target = projection ? "pooled" : "features";
    if (pooling === "map") this.attentionPool(target, pooledEps);
    else this.poolTokens(rows === 2 ? "two" : pooling, target, pooledEps);
    const perRow = { rows, sourceRows: rows };
    if (projection) {
      const packed = lazily(() => packLinear(this.model.tensors, "projection"));
      const buffers = { x: of("pooled"), y: of("features") };
      this.product(block, "projection", packed, { inDim: width, outDim: projection, ...perRow, buffers });
    }
    this.need("logits", align4(labels.length));
    if (head) this.head(rows, projection ?? width, head.cosine ?? false);
  }

  private poolSizes(): { dim: number; pooledEps?: number } {
    const { embedDim: dim, finalNorm, normEps, layerNormEps } = this.manifest;
    return { dim, pooledEps: /pooled|both/.test(finalNorm) ? (normEps?.pooled ?? layerNormEps) : undefined };
  }

  private poolKind(): PoolKind {
    const { manifest, groupSize, hasTokenNorm, streamRows } = this;
    const { embedDim: dim, prefixTokens, layerNormEps, normEps, pooling } = manifest;
    return {
      dim,
      prefixTokens,
      tokens: pooling === "class" ? lastRows(manifest) : tokenCounts(manifest).at(-1)!.mlp,
      tokenNorm: hasTokenNorm ? { eps: normEps?.final ?? layerNormEps, groupSize: groupSize.even } : undefined,
      sizes: streamRows !== undefined && pooling !== "class",
    };
  }

  private poolTokens(pooling: TokenPoolKind["pooling"], target: ActivationName, pooledEps?: number): void {
    const { blocks, prefixTokens } = this.manifest;
    const names = [this.hasTokenNorm ? "norm" : "", pooledEps === undefined ? "" : "fc_norm"].filter(Boolean);
    const patches = blocks.at(-1)!.keepIdx.length - prefixTokens;
    this.steps.push({
      block: blocks.length,
      label: "pool",
      shader: poolShader({ ...this.poolKind(), pooling, patches, pooledEps }),
      buffers: {
        ...this.poolInputs(),
        vectors: this.constant("pool", () => joined(names.flatMap((name) => this.weightAndBias(name)))),
        y: of(target),
      },
      workgroups: (pictures) => [pictures, 1, 1],
    });
  }

  /** Attention of a learned query, then an MLP beside it: `attentionPool` in src/reference/pooling.ts. */
  private attentionPool(target: ActivationName, pooledEps?: number): void {
    const {
      embedDim: dim,
      blocks,
      poolHeads,
      poolHidden,
      poolActivation,
      activation,
      normEps,
      layerNormEps,
    } = this.manifest;
    const heads = poolHeads!;
    const block = blocks.length;
    const gain = () => (this.hasTokenNorm ? this.f32("norm.weight") : undefined);
    const queries = () => {
      const weight = gain();
      return this.f32("attn_pool.query").map((v, i) => v * (weight?.[i % dim] ?? 1));
    };
    this.need("context", heads * align4(dim));
    this.steps.push({
      block,
      label: "attn_pool",
      shader: attentionPoolShader(this.poolKind()),
      buffers: {
        ...this.poolInputs(),
        queries: this.constant("attn_pool.query", queries),
        vectors: this.constant("norm", () => joined(this.weightAndBias("norm"))),
        y: of("context"),
      },
      workgroups: (pictures) => [heads, pictures, 1],
    });
    const linear = (name: string, norm?: string) =>
      lazily(() => packLinear(this.model.tensors, `attn_pool.${name}`, norm));
    const one = { rows: 1, sourceRows: 1 };
    this.need("mixed", align4(dim));
    // Each head makes all channels of which it keeps its own: of one row a picture that is cheaper than a kernel for it.
    this.product(block, "attn_pool.v", linear("v"), {
      ...{ inDim: dim, outDim: dim, rows: heads, sourceRows: heads, inner: dim / heads, diagonal: true },
      buffers: { x: of("context"), y: of("mixed") },
    });
    this.product(block, "attn_pool.proj", linear("proj"), {
      ...{ inDim: dim, outDim: dim, ...one, statistics: true },
      buffers: { x: of("mixed"), y: of("odd") },
    });
    this.need("hidden", align4(poolHidden!));
    this.product(block, "attn_pool.fc1", linear("mlp.fc1", "attn_pool.norm"), {
      ...{ inDim: dim, outDim: poolHidden!, ...one, norm: "odd", normEps: normEps?.pool ?? layerNormEps },
      activation: poolActivation ?? activation,
      buffers: { x: of("odd"), y: of("hidden") },
    });
    const isNormed = pooledEps !== undefined;
    this.need("units", align4(dim));
    this.product(block, "attn_pool.fc2", linear("mlp.fc2"), {
      ...{ inDim: poolHidden!, outDim: dim, ...one, add: "residual" },
      buffers: { x: of("hidden"), added: of("odd"), y: of(isNormed ? "units" : target) },
    });
    if (!isNormed) return;
    const norm = { eps: pooledEps, denseDim: dim };
    this.rows(block, "fc_norm", { norm, skip: 0, statistics: false }, 1, dim, {
      x: of("units"),
      vectors: this.norm("fc_norm"),
      y: of(target),
    });
  }

  private poolInputs(): Record<string, Binding> {
    return { x: of("even"), before: of("evenStatistics"), ...(this.streamRows && { rows: this.streamRows }) };
  }

  private head(rows: number, width: number, isCosine: boolean): void {
    const { blocks, labels } = this.manifest;
    const block = blocks.length;
    if (isCosine) {
      this.need("unit", rows * align4(width));
      this.steps.push({
        block,
        label: "unit",
        shader: unitShader(width),
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
          ...{ inDim: width, outDim: labels.length, rows: 1, sourceRows: rows, sourceStart: row },
          add: row ? "average" : undefined,
          buffers: { x: of(isCosine ? "unit" : "features"), y: of("logits") },
        },
      );
    });
  }
}
