/** A model and a taught head → the tensors and the manifest of a model folder. */
import { type Manifest, MEANS, type Model, type Tensor, type Tensors } from "../format/model.ts";
import { selectedVariant } from "../format/variants.ts";
import type { TaughtHead, TaughtInfo } from "../protocol.ts";

/**
 * The tensors of the head. They are in f32 whatever the weights are in: they are small, and scores stay the same as
 * when the model was taught.
 */
export function headTensors({ distilled }: Manifest, { weight, bias, means, labels }: TaughtHead): Tensors {
  const shape = [labels.length, weight.length / labels.length];
  const f32 = (data: Float32Array, ofShape = shape): Tensor => ({ dtype: "F32", shape: ofShape, data });
  const vector = [labels.length];
  const tensors: Tensors = new Map([[MEANS, f32(means)]]);
  // The logits of a distilled network are the mean of two heads', of which only the class token's sees the features.
  const factor = distilled ? 2 : 1;
  tensors.set("head.weight", f32(weight.map((v) => factor * v)));
  tensors.set(
    "head.bias",
    f32(
      bias.map((v) => factor * v),
      vector,
    ),
  );
  if (distilled) {
    tensors.set("head_dist.weight", f32(new Float32Array(weight.length)));
    tensors.set("head_dist.bias", f32(new Float32Array(bias.length), vector));
  }
  return tensors;
}

/** The network's tensors with another head. */
export function withHead({ manifest, tensors }: Model, head: TaughtHead): Tensors {
  const backbone = [...tensors].filter(([key]) => !/^head(_dist)?\./.test(key));
  return new Map([...backbone, ...headTensors(manifest, head)]);
}

/** What is recorded of how a model was taught. */
export interface TaughtRecord extends TaughtInfo {
  /** name of the file with the embeddings, and its sha256 */
  embeddings?: { file: string; sha256: string };
}

/**
 * The manifest of the selected variant alone, as the others have other features. Figures of the old classes are left
 * out, because they do not hold for the new ones.
 */
export function taughtManifest(
  manifest: Manifest,
  head: TaughtHead,
  record: TaughtRecord,
  step: Record<string, unknown>,
): Manifest {
  const { provenance } = manifest;
  const steps = Array.isArray(provenance.steps) ? provenance.steps : [];
  const mine: Manifest = {
    ...manifest,
    head: { scores: "softmax", unknown: head.unknown },
    labels: head.labels,
    provenance: { ...provenance, taught: record, steps: [...steps, step] },
    metrics: {},
    variants: [],
  };
  mine.variants = [selectedVariant(mine)];
  return mine;
}
