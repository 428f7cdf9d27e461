/**
 * A line of docs/robustness.md: how many were tried and how many did harm. Each is printed, and added to the file that
 * ROBUSTNESS_LOG names; scripts/robustness.ts makes the table of them.
 */
import { appendFileSync } from "node:fs";
import { relative } from "node:path";
import { expect } from "vitest";

/** `npm run robustness` takes the full counts, `npm test` the small ones. */
export const isFull = process.env.ROBUSTNESS === "full";

export const count = (full: number, small: number): number => (isFull ? full : small);

/** The table's lines, in its order. */
export type Line =
  | "format"
  | "fuzz"
  | "bit-flips"
  | "untrusted"
  | "pictures"
  | "worker-killed"
  | "worker-methods"
  | "device-lost"
  | "abort"
  | "network"
  | "cache"
  | "two-tabs"
  | "variants"
  | "soak"
  | "engines"
  | "onnx-writer"
  | "tools-checkpoints"
  | "tools-disk"
  | "tools-killed"
  | "tools-pictures"
  | "tools-archives";

export class Tally {
  tried = 0;
  readonly harmed: string[] = [];

  /** @param measured more to be said than the counts */
  constructor(
    private readonly line: Line,
    private readonly what: string,
    public measured = "",
  ) {}

  /** @param harm what went wrong; undefined or "" when nothing did */
  add(harm?: string): void {
    this.tried++;
    if (harm) this.harmed.push(harm);
  }

  /** A test's claim as one attempt: harm where it does not hold. */
  claim(check: () => void): void {
    try {
      check();
      this.add();
    } catch (error) {
      this.add(String(error));
      throw error;
    }
  }

  /** Prints and logs the figures, then fails for any harm. */
  close(): void {
    const { line, what, tried, measured } = this;
    const harm = this.harmed.length;
    console.log(`${what}: ${tried} tried, ${harm} did harm${measured && `; ${measured}`}`);
    const log = process.env.ROBUSTNESS_LOG;
    const file = relative(process.cwd(), expect.getState().testPath ?? "");
    if (log) appendFileSync(log, `${JSON.stringify({ file, line, what, tried, harm, measured })}\n`);
    expect(tried).toBeGreaterThan(0);
    expect(this.harmed.slice(0, 5)).toEqual([]);
  }
}
