/** Frames of a video element that a test plays, and what a stream does with those that cannot be read. */
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { SlimViTError } from "../../src/errors.ts";
import type { Client } from "../../src/page/client.ts";
import { PendingCalls } from "../../src/page/pendingCalls.ts";
import { classifyFrames, framesFrom } from "../../src/page/videoFrames.ts";
import type { ImageInput } from "../../src/protocol.ts";

class Video extends EventTarget {
  readyState = 2; // HAVE_CURRENT_DATA
  ended = false;
  error: { message: string } | null = null;
  /** what waits for the next frame */
  readonly waiting = new Map<number, () => void>();
  listeners = 0;
  private handle = 0;

  requestVideoFrameCallback(call: () => void): number {
    this.waiting.set(++this.handle, call);
    return this.handle;
  }
  cancelVideoFrameCallback(handle: number): void {
    this.waiting.delete(handle);
  }
  override addEventListener(...given: Parameters<EventTarget["addEventListener"]>): void {
    this.listeners++;
    super.addEventListener(...given);
  }
  override removeEventListener(...given: Parameters<EventTarget["removeEventListener"]>): void {
    this.listeners--;
    super.removeEventListener(...given);
  }
  /** Shows another frame. */
  show(): void {
    const calls = [...this.waiting.values()];
    this.waiting.clear();
    for (const call of calls) call();
  }
  end(fault?: string): void {
    if (fault) this.error = { message: fault };
    else this.ended = true;
    this.dispatchEvent(new Event(fault ? "error" : "ended"));
  }
}

beforeEach(() => void vi.stubGlobal("HTMLVideoElement", Video));
afterEach(() => void vi.unstubAllGlobals());

const settled = () => new Promise((resolve) => setTimeout(resolve, 2));

describe("of a video element", () => {
  let video: Video;
  beforeEach(() => void (video = new Video()));
  const open = (signal?: AbortSignal) => framesFrom(video as never, signal);

  /** Asks for the next frame. @returns whether it has come by now */
  function ask(frames: AsyncGenerator<unknown>) {
    const asked = { has: false, next: frames.next() };
    asked.next.then(
      () => (asked.has = true),
      () => {},
    );
    return asked;
  }

  /** The frame that comes at once: nothing here takes longer than a turn. */
  async function given(frames: AsyncGenerator<unknown>) {
    const asked = ask(frames);
    await settled();
    expect(asked.has).toBe(true);
    return asked.next;
  }

  test("the frame that it shows is given, and then each new one that comes while one is asked for", async () => {
    const frames = open();
    expect((await given(frames)).value).toBe(video);
    video.show(); // while the first is worked on: nobody waits for it
    video.show();
    const second = ask(frames);
    await settled();
    expect(second.has).toBe(false);
    video.show();
    expect((await second.next).value).toBe(video);
    const third = ask(frames);
    await settled();
    expect(third.has).toBe(false);
    video.end();
    expect((await third.next).done).toBe(true);
  });

  test("that has no frame yet the first one is waited for", async () => {
    video.readyState = 1;
    const first = ask(open());
    await settled();
    expect(first.has).toBe(false);
    video.show();
    expect((await first.next).value).toBe(video);
  });

  test("that is over none is given", async () => {
    video.ended = true;
    expect((await given(open())).done).toBe(true);
  });

  test("that breaks off the fault is given", async () => {
    const frames = open();
    await given(frames);
    const next = frames.next();
    await settled();
    video.end("no such codec");
    await expect(next).rejects.toMatchObject({ code: "bad-input", message: /cannot be played on \(no such codec\)/ });
  });

  test.each(["abort", "end", "show"] as const)("nothing waits any longer after its %s", async (how) => {
    const controller = new AbortController();
    const frames = open(controller.signal);
    await given(frames);
    const next = ask(frames);
    await settled();
    expect([video.waiting.size, video.listeners]).toEqual([1, 2]);
    if (how === "abort") controller.abort();
    else video[how]();
    await settled();
    expect([video.waiting.size, video.listeners]).toEqual([0, 0]);
    if (how === "abort") await expect(next.next).rejects.toMatchObject({ code: "aborted" });
    else expect((await next.next).done).toBe(how === "end");
  });
});

describe("a stream", () => {
  const unreadable = () => Object.assign(new SlimViTError("bad-input", "no frame yet"), { isUnreadableFrame: true });

  /** Classifies pictures that are numbers. */
  function stream(classify: (picture: number) => unknown, options: object = {}) {
    let left = false;
    async function* pictures() {
      try {
        for (let k = 0; k < 4; k++) yield k as unknown as ImageInput;
      } finally {
        left = true;
      }
    }
    const client = { calls: new PendingCalls(), classify: async (picture: number) => classify(picture) };
    return { answers: classifyFrames(client as unknown as Client, pictures(), options), isLeft: () => left };
  }

  test("passes over frames that cannot be read yet", async () => {
    const { answers } = stream((k) => {
      if (k % 2) throw unreadable();
      return k;
    });
    const seen: unknown[] = [];
    for await (const answer of answers) seen.push(answer);
    expect(seen).toEqual([0, 2]);
  });

  test("ends with any other fault, and leaves its source", async () => {
    const { answers, isLeft } = stream((k) => {
      if (k === 1) throw new SlimViTError("device-lost", "the card is gone");
      return k;
    });
    expect((await answers.next()).value).toBe(0);
    await expect(answers.next()).rejects.toMatchObject({ code: "device-lost" });
    await settled();
    expect(isLeft()).toBe(true);
    expect((await answers.next()).done).toBe(true);
  });

  test("leaves its source when its loop is left", async () => {
    const { answers, isLeft } = stream((k) => k);
    for await (const _ of answers) break;
    await settled();
    expect(isLeft()).toBe(true);
  });
});
