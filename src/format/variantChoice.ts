/** What is known of a folder's variants on a device, and how one was chosen. */

/** A variant as `info` lists it. */
export interface VariantInfo {
  name: string;
  macs: number;
  /** [height, width] */
  imageSize: [number, number];
  /** measured figures, each with the data and n it was measured on */
  metrics: Record<string, unknown>;
  /** whether it runs without a download */
  ready: boolean;
}

/** How a variant was chosen. */
export interface VariantChoice {
  /** the budget: milliseconds of inference */
  latencyMs: number;
  /** whether the variant's measured time is within the budget */
  meets: boolean;
  /** for people */
  reason: string;
  /** Median milliseconds of the variants that were timed here, or the fault for which one is not used. */
  measured: { variant: string; ms?: number; fault?: string }[];
}

/** A variant by its name, or the best within a budget. */
export type VariantRequest = string | { latencyMs: number };
