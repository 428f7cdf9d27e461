/** A loaded model and its engine → the `info` that the page sees. */
import type { OpenedEngine } from "../engines/opening.ts";
import { countMacs, countParams, type Model } from "../format/model.ts";
import { slabsOf } from "../format/variants.ts";
import type { ModelInfo, TaughtInfo, VariantChoice } from "../protocol.ts";

/** @param known of a folder with several variants */
export function describeModel(
  { manifest, dtype }: Pick<Model, "manifest" | "dtype">,
  opened: OpenedEngine,
  rest: Pick<ModelInfo, "loadMs" | "notes" | "dtypeReason">,
  known?: { ready: readonly string[]; choice?: VariantChoice },
): ModelInfo {
  const { name, license, embedDim, imageSize, labels, blocks, weights, pooling, variant, variants, provenance } =
    manifest;
  const entry = weights.find((one) => one.dtype === dtype)!;
  const slabs = slabsOf(manifest, entry);
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
    sizeBytes: slabs ? slabs.reduce((sum, { bytes }) => sum + bytes, 0) : entry.bytes,
    ...describeEngine(opened),
    blocks,
    pooling,
    variants: variants.map(({ name, macs, imageSize, metrics }) => ({
      ...{ name, macs, imageSize, metrics },
      ready: known?.ready.includes(name) ?? true,
    })),
    variant,
    ...(known?.choice && { choice: known.choice }),
    taught: provenance.taught as TaughtInfo | undefined, // by whoever saved the model
    ...rest,
  };
}

function describeEngine({ engine, tried, reason }: OpenedEngine) {
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
