import { describe, expect, test } from "vitest";
import { Pace } from "../../src/page/pace.ts";

const VARIANTS = [
  { name: "small", macs: 25 },
  { name: "middle", macs: 50 },
  { name: "large", macs: 100 },
];

/** A device on which the largest variant takes `msOfLargest`, and frames come one after the other. */
class Stream {
  readonly names: string[] = [];
  private time = 0;
  private readonly pace: Pace;

  constructor(
    private readonly budget: number,
    start: string,
    private readonly rest = 2,
  ) {
    this.pace = new Pace(budget, VARIANTS, start, () => this.time);
  }

  /** @returns frames within the budget, as a share */
  play(frames: number, msOfLargest: number | ((frame: number) => number), every = 33): number {
    let within = 0;
    for (let frame = 0; frame < frames; frame++) {
      const { name } = this.pace;
      const { macs } = VARIANTS.find((variant) => variant.name === name)!;
      const ms = typeof msOfLargest === "number" ? msOfLargest : msOfLargest(frame);
      const inference = (ms * macs) / 100;
      const total = inference + this.rest;
      this.time += Math.max(every, total);
      this.names.push(name);
      if (total <= this.budget) within++;
      this.pace.note({ latencyMs: { preprocess: 0, inference, total }, variant: name } as never);
    }
    return within / frames;
  }

  /** variant of the frame to come */
  get next(): string {
    return this.pace.name;
  }

  get last(): string {
    return this.names.at(-1)!;
  }

  /** times that another variant came */
  get changes(): number {
    return this.names.filter((name, i) => i && name !== this.names[i - 1]).length;
  }
}

describe("a stream within a budget", () => {
  test("stays with a variant that is fast enough", () => {
    const stream = new Stream(33, "large");
    expect(stream.play(300, 20)).toBe(1);
    expect(stream.changes).toBe(0);
  });

  test("steps down within three frames when the device slows, to the largest that fits, and up again", () => {
    const stream = new Stream(33, "large");
    stream.play(60, 20);
    stream.play(4, 80);
    expect(stream.last).toBe("small"); // 80 / 4 + 2; the middle one would take 42
    expect(stream.play(200, 80)).toBe(1);
    stream.play(150, 20);
    expect(stream.last).toBe("large");
    expect(stream.changes).toBe(3); // down at once, up by one and one
  });

  test("waits a second with room before it steps up", () => {
    const stream = new Stream(33, "small");
    stream.play(25, 20);
    expect(stream.last).toBe("small");
    stream.play(15, 20);
    expect(stream.last).toBe("middle");
  });

  test("does not flap at the edge: what is just too slow is tried more and more seldom", () => {
    // Whatever the prediction says, the largest takes twice as long as its MACs.
    const stream = new Stream(33, "middle");
    const ms = () => (stream.names.length && stream.next === "large" ? 60 : 20);
    for (let frame = 0; frame < 900; frame++) stream.play(1, ms);
    expect(stream.names.filter((name) => name === "large").length).toBeLessThan(40);
    expect(stream.changes).toBeLessThanOrEqual(20);
  });

  test("one slow frame in three changes nothing", () => {
    const stream = new Stream(33, "large");
    stream.play(300, (frame) => (frame % 3 ? 20 : 90));
    expect(stream.changes).toBe(0);
  });

  test("the smallest goes on where nothing meets the budget", () => {
    const stream = new Stream(10, "large");
    stream.play(100, 400);
    expect(stream.last).toBe("small");
    expect(stream.changes).toBe(1);
  });

  test("a variant that answers for another one's frame is not counted", () => {
    const pace = new Pace(33, VARIANTS, "large", () => 0);
    const slow = { latencyMs: { preprocess: 0, inference: 100, total: 100 }, variant: "small" };
    for (let frame = 0; frame < 9; frame++) expect(pace.note(slow as never)).toBe(false);
  });
});
