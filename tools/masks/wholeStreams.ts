/** The uncut model's residual streams on the calibration pictures, block by block. Several cuts of one model can share them. */
import type { Architecture, Model, Tensors } from "../../src/format/model.ts";
import type { Stream } from "../../src/tfjs/forward.ts";
import type { TF } from "../../src/tfjs/ops.ts";
import type { Picture } from "../data/data.ts";
import { architectureOf } from "../models/folders.ts";
import { advance, disposeStreams, embedPictures, type MergeRows, without } from "./calibration.ts";

/** A list has one entry for each batch of pictures. */
export interface WholeBlock {
  /** after the attention's residual, before anything merges */
  withAttention: Stream[];
  after: Stream[];
  merges: MergeRows;
}

/** Streams above this size are computed anew for each cut. */
const MOST_KEPT_BYTES = 2 ** 30;

export class WholeStreams {
  private readonly blocks: (WholeBlock | undefined)[] = [];

  private constructor(
    readonly tf: TF,
    readonly arch: Architecture,
    /** f32 */
    readonly tensors: Tensors,
    /** before the first block */
    readonly embedded: Stream[],
    private readonly keeps: boolean,
  ) {}

  /** @param keeps whether several cuts will ask for the blocks */
  static async open(
    tf: TF,
    { manifest, tensors }: Pick<Model, "manifest" | "tensors">,
    pictures: Picture[],
    keeps = false,
  ): Promise<WholeStreams> {
    const arch = architectureOf(manifest);
    const embedded = await embedPictures(tf, arch, tensors, pictures, manifest.preprocess);
    const bytes = embedded.reduce((sum, { x }) => sum + 4 * x.size, 0) * 2 * arch.blocks.length;
    return new WholeStreams(tf, arch, tensors, embedded, keeps && bytes <= MOST_KEPT_BYTES);
  }

  /** Blocks are asked for in their order. */
  block(i: number): WholeBlock {
    const { tf, arch, tensors, blocks } = this;
    const known = blocks[i];
    if (known) return known;
    const before = i ? blocks[i - 1]!.after : this.embedded;
    const merges: MergeRows = [];
    const withAttention = advance(tf, ...without(arch, i, tensors, { mlp: true, merge: true }), i, before);
    const block = { withAttention, after: advance(tf, arch, tensors, i, before, merges), merges };
    blocks[i] = block;
    return block;
  }

  /** Frees what lies before block `i`, unless other cuts will ask for it. */
  release(i: number): void {
    if (!this.keeps) this.forget(i - 1);
  }

  dispose(): void {
    this.blocks.forEach((_, i) => void this.forget(i));
    disposeStreams(this.tf, this.embedded);
  }

  private forget(i: number): void {
    const block = this.blocks[i];
    if (!block) return;
    disposeStreams(this.tf, [...block.withAttention, ...block.after]);
    this.tf.dispose(block.merges);
    this.blocks[i] = undefined;
  }
}
