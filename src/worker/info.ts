/** A loaded model and its engine → what the page may know of them. */
import type { OpenedEngine } from "../engines/opening.ts";
import { countMacs, countParams, type Model } from "../format/model.ts";
import type { ModelInfo, TaughtInfo } from "../protocol.ts";

export function describeModel(
  { manifest, dtype }: Model,
  opened: OpenedEngine,
  rest: Pick<ModelInfo, "loadMs" | "notes" | "dtypeReason">,
): ModelInfo {
  const { name, license, embedDim, imageSize, labels, blocks, weights, pooling, variant, variants, provenance } =
    manifest;
  return {
    name,
    license,
    embedDim,
    imageSize,
    labels,
    params: countParams(manifest, labels.length),
    macs: countMacs(manifest, labels.length),
    dtype,
    dtypes: weights.map((entry) => entry.dtype),
    sizeBytes: weights.find((entry) => entry.dtype === dtype)!.bytes,
    ...describeEngine(opened),
    blocks,
    pooling,
    variants: variants.map(({ name, macs, imageSize, metrics }) => ({ name, macs, imageSize, metrics })),
    variant,
    taught: provenance.taught as TaughtInfo | undefined, // by whoever saved the model
    ...rest,
  };
}

/** The part that changes when another engine takes over. */
export function describeEngine({ engine, tried, reason }: OpenedEngine) {
  const { name, threads, simd, deviceType, memoryBytes, runBatch, batchSize = 1 } = engine;
  return {
    engine: name,
    threads,
    batchSize: runBatch ? batchSize : 1,
    simd,
    deviceType,
    memoryBytes,
    engineReason: reason,
    tried,
  } satisfies Partial<ModelInfo>;
}
