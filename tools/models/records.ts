/** Measured figures as a manifest records them. */

/** An entry that `slimvit eval --record` writes. */
export interface AccuracyRecord {
  data: string;
  split: string;
  top1: number;
  top5: number;
  n: number;
  engine: string;
  dtype: string;
}

/** An entry that `npm run figures` writes: milliseconds an image, inference only. */
export interface LatencyRecord {
  engine: string;
  dtype: string;
  threads: number;
  msMedian: number;
  msP10: number;
  msP90: number;
  device: string;
  browser: string;
}

export interface Metrics {
  accuracy?: AccuracyRecord[];
  latency?: LatencyRecord[];
}
