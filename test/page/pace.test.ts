import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Pace, pacedBy } from "../../src/page/pace.ts";
import type { ModelInfo } from "../../src/protocol.ts";

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

/** Frames every 100 ms or so. @returns the variant of the frame after each, and the lengths of the runs of one variant */
function paced(budget: number, start: string, variants = VARIANTS) {
  let time = 0;
  const pace = new Pace(budget, variants, start, () => time);
  const runs: [name: string, frames: number][] = [];
  const give = (inference: number, { rest = 0, every = 100 } = {}) => {
    const { name } = pace;
    if (runs.at(-1)?.[0] === name) runs.at(-1)![1]++;
    else runs.push([name, 1]);
    time += every;
    pace.note({ latencyMs: { preprocess: 0, inference, total: inference + rest }, variant: name });
    return pace.name;
  };
  return { give, runs, pace };
}

const times = (count: number, work: (k: number) => string) => Array.from({ length: count }, (_, k) => work(k)).at(-1);

describe("the rules of the pace", () => {
  test.each([VARIANTS, VARIANTS.toReversed(), [VARIANTS[1], VARIANTS[2], VARIANTS[0]]])(
    "the order in which a folder lists its variants does not matter",
    (...variants) => {
      const { give } = paced(33, "large", variants);
      expect(times(3, () => give(80))).toBe("small"); // 20 ms; the middle one would take 40
    },
  );

  test("two slow frames of three are enough to step down", () => {
    const { give } = paced(33, "large");
    expect([50, 20, 50].map((ms) => give(ms))).toEqual(["large", "large", "middle"]);
  });

  test("a larger variant has to leave a quarter of the budget free", () => {
    const tight = paced(100, "small"); // the middle one has twice the MACs: 76 ms of 75
    expect(times(50, () => tight.give(38))).toBe("small");
    const roomy = paced(100, "small");
    expect(times(13, () => roomy.give(37))).toBe("middle");
  });

  test("what a frame takes beside inference is the same for every variant, and counts", () => {
    const up = paced(100, "small");
    expect(times(13, () => up.give(20, { rest: 30 }))).toBe("middle"); // 40 + 30; all doubled would be 100
    const down = paced(75, "large");
    expect(times(3, () => down.give(40, { rest: 60 }))).toBe("small"); // the middle one would take 20 + 60
    const late = paced(33, "middle");
    expect(times(3, () => late.give(20, { rest: 20 }))).toBe("small");
  });

  test("room is that of nine frames, not of the newest three", () => {
    const { give } = paced(100, "small");
    // Of nine frames five are too slow for the middle variant; four fast ones in a row last longer than a second.
    expect(times(90, (k) => give(k % 9 < 5 ? 45 : 20, { every: 500 }))).toBe("small");
  });

  test("room has to last a whole second without a break", () => {
    const { give } = paced(100, "small");
    times(8, () => give(37));
    times(9, () => give(45)); // no room from the fifth of them on
    expect(times(14, () => give(37))).toBe("small"); // room again since the fifth of these, 900 ms ago
    expect(give(37)).toBe("middle");
  });

  /** On this device the larger variant takes four times as long as predicted. */
  const failing = ({ give, runs, pace }: ReturnType<typeof paced>, trials: number) => {
    while (runs.length < 2 * trials) give(pace.name === "large" ? 60 : 15);
  };

  test("after each trial that fails the wait is twice as long, up to four seconds", () => {
    const stream = paced(50, "middle");
    failing(stream, 6);
    // Room is known after three frames; then come 1 s, 2 s and 4 s of one frame each 100 ms.
    expect(stream.runs.filter(([name]) => name === "middle").map(([, frames]) => frames - 3)).toEqual([
      10, 20, 40, 40, 40, 40,
    ]);
  });

  test("after a trial of more than two seconds the wait is a second again", () => {
    const stream = paced(50, "middle");
    failing(stream, 2);
    times(2, () => stream.give(60));
    while (stream.pace.name === "middle") stream.give(15);
    times(19, () => stream.give(30));
    expect(times(2, () => stream.give(60))).toBe("middle");
    while (stream.pace.name === "middle") stream.give(15);
    expect(stream.runs.at(-1)).toEqual(["middle", 13]);
  });
});

describe("frames that are classified at a pace", () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ["performance"] }));
  afterEach(() => void vi.useRealTimers());

  const infoOf = (variant: string, ...ready: string[]) =>
    ({
      variant,
      variants: VARIANTS.map((one) => ({ ...one, ready: ready.includes(one.name) })),
    }) as unknown as ModelInfo;

  /** @param msOf what the frame after `asked` takes with a variant */
  function stream(first: ModelInfo, msOf: (variant: string, asked: number) => number) {
    const asked: string[] = [];
    const changes: ModelInfo[] = [];
    const client = { info: first, infoOf: (variant: string) => ({ of: variant }) as unknown as ModelInfo };
    const classify = async (_: null, variant = client.info.variant) => {
      const inference = msOf(variant, asked.length);
      asked.push(variant);
      vi.advanceTimersByTime(100);
      return {
        classes: [],
        latencyMs: { preprocess: 0, inference, total: inference },
        engine: "simd",
        variant,
      } as never;
    };
    const next = pacedBy(client, 33, classify, (info) => void changes.push(info));
    const give = async (frames: number) => {
      for (let k = 0; k < frames; k++) await next(null);
      return asked.slice(-frames);
    };
    return { client, give, changes };
  }

  test("each asks for the variant of the pace, and none for one that would have to be downloaded", async () => {
    const { give } = stream(infoOf("middle", "small", "middle"), (name, k) => (k < 3 ? 60 : name === "small" ? 5 : 10));
    expect(await give(4)).toEqual(["middle", "middle", "middle", "small"]);
    const later = await give(100);
    expect(later.at(-1)).toBe("middle");
    expect(later).not.toContain("large");
  });

  test("the first frame of a variant has waited for the change and does not count", async () => {
    // The last three of these have a median of 20, with the first one they would have one of 40.
    const { give } = stream(infoOf("large", "small", "middle", "large"), (_, k) => [60, 60, 60, 500, 40, 20][k] ?? 20);
    expect((await give(8)).slice(3)).toEqual(Array(5).fill("middle"));
  });

  test("the caller hears of each change once, when the variant has answered", async () => {
    const { give, changes } = stream(infoOf("large", "small", "middle", "large"), (_, k) => (k < 3 ? 60 : 30));
    await give(3);
    expect(changes).toEqual([]);
    await give(1);
    expect(changes).toEqual([{ of: "middle" }]);
    await give(5);
    expect(changes).toHaveLength(1);
  });

  test("goes on with its variant when another one has been loaded", async () => {
    const { client, give } = stream(infoOf("middle", "small", "middle"), (_, k) => (k < 3 ? 60 : 30));
    expect(await give(5)).toEqual(["middle", "middle", "middle", "small", "small"]);
    client.info = infoOf("middle", "small", "middle", "large");
    expect(await give(2)).toEqual(["small", "small"]);
  });

  test("one that was loaded later is used as soon as there is time for it", async () => {
    const { client, give } = stream(infoOf("middle", "small", "middle"), () => 10);
    expect((await give(30)).at(-1)).toBe("middle");
    client.info = infoOf("middle", "small", "middle", "large");
    expect((await give(30)).at(-1)).toBe("large");
  });

  test.each([0, -1, Number.NaN, "33", null])("a budget of %s is refused", (budget) => {
    const client = { info: infoOf("small", "small"), infoOf: () => undefined };
    const expected = expect.objectContaining({ code: "bad-option", message: expect.stringContaining(String(budget)) });
    expect(() => pacedBy(client, budget as number, async () => ({}) as never)).toThrow(expected);
  });
});
