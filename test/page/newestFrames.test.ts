/** Pictures that come faster than they are asked for: of video the newest is given and the others are closed; of anything else, all. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { SlimViT } from "../../src/index.ts";
import { framesFrom } from "../../src/page/videoFrames.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { randomModel } from "../helpers.ts";

class Frame {
  closed = 0;
  constructor(readonly name: string) {}
  close(): void {
    this.closed++;
  }
}

const framesNamed = (names: string) => names.split(" ").map((name) => new Frame(name));

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

  describe("that is video", () => {
    beforeEach(() => void vi.stubGlobal("VideoFrame", Frame));
    afterEach(() => void vi.unstubAllGlobals());

    test("the newest frame is given each time, and every other one is closed once, when it is dropped", async () => {
      const { source, give, end } = fed<Frame>();
      const frames = open(source);
      const all = framesNamed("a b c d e f");
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
      const [a, b] = framesNamed("a b");
      give(a);
      await frames.next();
      give(b);
      await settled();
      await frames.return(undefined);
      expect([a.closed, b.closed]).toEqual([1, 1]);
    });
  });

  test("that is no video every picture is given, in order, and closed once", async () => {
    const { source, give, end } = fed<Frame>();
    const all = framesNamed("a b c d");
    give(...all);
    end();
    const seen: string[] = [];
    for await (const { name } of open(source)) {
      await settled(); // the source is faster
      seen.push(name);
    }
    expect(seen).toEqual(["a", "b", "c", "d"]);
    expect(all.map(({ closed }) => closed)).toEqual([1, 1, 1, 1]);
  });
});

test.each<[string, unknown, RegExp]>([
  [
    "a list of files",
    [new Blob(["a"])],
    /^stream was given a list; expected a video element.* use classifyAll\(list\)\.$/,
  ],
  ["a file", new Blob(["a"]), /^stream was given \[object Blob\]; expected/],
  ["nothing", undefined, /^stream was given undefined; expected/],
])("%s is no source of frames, and the error says what is", (_, source, message) => {
  expect(() => framesFrom(source as never)).toThrow(expect.objectContaining({ name: "SlimViTError", code: "bad-input", message: expect.stringMatching(message) })); // biome-ignore format: one claim
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

  test("answers for each of the pictures that came meanwhile, in their order", async () => {
    const pictures = [0, 40, 90, 160, 250].map((grey) => ({
      ...{ data: Uint8Array.from({ length: 256 }, (_, k) => (grey + 7 * k) % 256), width: 8, height: 8 },
    }));
    const alone = [];
    for (const picture of pictures) alone.push((await vit.classify(picture)).classes);
    const { source, give, end } = fed<(typeof pictures)[0]>();
    give(...pictures);
    end();
    const answers = [];
    for await (const { classes } of vit.stream(source)) answers.push(classes);
    expect(answers).toEqual(alone);
    expect(new Set(alone.map((classes) => JSON.stringify(classes))).size).toBe(5);
  });
});
