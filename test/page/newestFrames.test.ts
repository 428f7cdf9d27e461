/** Frames that come faster than they are asked for: the newest one is given, those before it are let go and closed. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { SlimViT } from "../../src/index.ts";
import { framesFrom } from "../../src/page/videoFrames.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { randomModel } from "../helpers.ts";

/** Stands in for the browser's VideoFrame, which Node lacks. */
class Frame {
  closed = 0;

  constructor(readonly name: string) {}

  close() {
    this.closed++;
  }
}
vi.stubGlobal("VideoFrame", Frame);

const frame = (name: string) => new Frame(name);

/** A source that is fed from outside. */
function fed<T>() {
  const waiting: T[] = [];
  let wake = () => {};
  let ended = false;
  async function* frames() {
    for (;;) {
      while (waiting.length) yield waiting.shift()!;
      if (ended) return;
      await new Promise<void>((resolve) => (wake = resolve));
    }
  }
  return {
    source: { [Symbol.asyncIterator]: frames } as AsyncIterable<T>,
    give(...items: T[]) {
      waiting.push(...items);
      wake();
    },
    end() {
      ended = true;
      wake();
    },
  };
}

function streamOf<T>(source: AsyncIterable<T>): ReadableStream<T> {
  const items = source[Symbol.asyncIterator]();
  return new ReadableStream<T>({
    async pull(controller) {
      const { done, value } = await items.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
  });
}

/** Long enough for all that was given to be taken. */
const settled = () => new Promise((resolve) => setTimeout(resolve, 5));

describe.each(["an async iterable", "a stream"])("of %s", (kind) => {
  const open = (source: AsyncIterable<Frame>) =>
    framesFrom<Frame>(kind === "a stream" ? streamOf(source) : source) as AsyncGenerator<Frame>;

  test("the newest frame is given each time, and every other one is closed once, when it is dropped", async () => {
    const { source, give, end } = fed<Frame>();
    const frames = open(source);
    const all = "a b c d e f".split(" ").map(frame);
    const [a, b, c, d, e, f] = all;
    give(a);
    expect((await frames.next()).value).toBe(a);
    give(b, c, d); // while a is worked on
    await settled();
    expect([a, b, c, d].map(({ closed }) => closed)).toEqual([0, 1, 1, 0]);
    expect((await frames.next()).value).toBe(d);
    expect([a.closed, d.closed]).toEqual([1, 0]); // the one before, now that the next is asked for
    give(e, f);
    await settled();
    end();
    await settled();
    expect((await frames.next()).value).toBe(f); // the last one, although the source is over
    expect((await frames.next()).done).toBe(true);
    expect(all.map(({ closed }) => closed)).toEqual([1, 1, 1, 1, 1, 1]);
  });

  test("who leaves closes the frame at hand and the one that waits", async () => {
    const { source, give } = fed<Frame>();
    const frames = open(source);
    const [a, b] = ["a", "b"].map(frame);
    give(a);
    await frames.next();
    give(b);
    await settled();
    await frames.return(undefined);
    expect([a.closed, b.closed]).toEqual([1, 1]);
  });
});

test("what a source throws comes after the frame that it gave before", async () => {
  const frames = framesFrom<string>(
    (async function* () {
      yield "last";
      throw new Error("the camera was unplugged");
    })(),
  );
  await settled();
  expect((await frames.next()).value).toBe("last");
  await expect(frames.next()).rejects.toThrow("the camera was unplugged");
});

describe("SlimViT.stream", () => {
  let folder: string;
  let vit: SlimViT;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "slimvit-stream-"));
    const arch = { imageSize: [8, 8] as [number, number], patchSize: 4, embedDim: 8, headDim: 4, layerNormEps: 1e-6 };
    const blocks = [{ headDims: [4], mlpHidden: 8, keepIdx: [0, 1, 2, 3, 4] }];
    const { manifest, tensors } = randomModel({ ...arch, prefixTokens: 1, blocks } as never, 3);
    writeModelFolder(folder, manifest, tensors, ["f32"]);
    vit = await SlimViT.load(folder, { engine: "reference" });
  });
  afterAll(() => {
    vit?.dispose();
    rmSync(folder, { recursive: true, force: true });
  });

  test("answers for every picture of a source that is no video", async () => {
    const pictures = [0, 40, 90, 160, 250].map((grey) => ({
      ...{ data: Uint8Array.from({ length: 256 }, (_, k) => (grey + 7 * k) % 256), width: 8, height: 8 },
    }));
    const alone = [];
    for (const picture of pictures) alone.push((await vit.classify(picture)).classes);
    const { source, give, end } = fed<(typeof pictures)[0]>();
    const answers = vit.stream(source);
    give(pictures[0]);
    expect((await answers.next()).value.classes).toEqual(alone[0]);
    give(pictures[1], pictures[2], pictures[3]);
    await settled();
    for (const k of [1, 2, 3]) expect((await answers.next()).value.classes).toEqual(alone[k]);
    give(pictures[4]);
    end();
    expect((await answers.next()).value.classes).toEqual(alone[4]);
    expect((await answers.next()).done).toBe(true);
    expect(new Set(alone.map((classes) => JSON.stringify(classes))).size).toBe(5);
  });
});
