/** Many pictures, with work that a test decides about. */
import { describe, expect, test } from "vitest";
import { SlimViTError } from "../../src/errors.ts";
import { eachOf } from "../../src/page/batch.ts";
import { batchOf } from "../../src/page/batchOf.ts";
import { PendingCalls } from "../../src/page/pendingCalls.ts";
import type { BatchProgress, Classification } from "../../src/protocol.ts";

const answer = (engine: string) => ({ engine }) as unknown as Classification;
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

function batch(
  inputs: Iterable<string> | AsyncIterable<string>,
  work: (input: string, signal: AbortSignal) => Promise<Classification>,
  { concurrency = 2, signal, onProgress }: Partial<Parameters<typeof batchOf>[1]> & { signal?: AbortSignal } = {},
) {
  const calls = new PendingCalls();
  const settle = <R>(step: () => Promise<R>) => calls.settle(signal, step);
  return { calls, results: batchOf(inputs, { concurrency, settle, onProgress }, work) };
}

describe("batchOf", () => {
  test("gives every input's result or error in its order, and reports progress", async () => {
    const seen: unknown[] = [];
    const progress: BatchProgress[] = [];
    const work = async (input: string) => {
      await sleep(input === "a" ? 20 : 1); // the first is the slowest
      if (input === "b") throw new SlimViTError("bad-input", "b is no picture");
      if (input === "c") throw new TypeError("not ours");
      return answer(input);
    };
    const { results } = batch(["a", "b", "c", "d"], work, { onProgress: (p) => progress.push(p) });
    for await (const { index, input, result, error } of results)
      seen.push([index, input, result?.engine ?? error!.code]);
    expect(seen).toEqual([
      [0, "a", "a"],
      [1, "b", "bad-input"],
      [2, "c", "bad-input"],
      [3, "d", "d"],
    ]);
    expect(progress).toEqual([
      { done: 1, failed: 0, total: 4 },
      { done: 2, failed: 1, total: 4 },
      { done: 3, failed: 2, total: 4 },
      { done: 4, failed: 2, total: 4 },
    ]);
  });

  test.each([1, 2, 3])("has no more than %i on their way at once, and so many where there are", async (concurrency) => {
    let [now, most] = [0, 0];
    const work = async (input: string) => {
      most = Math.max(most, ++now);
      await sleep(5);
      now--;
      return answer(input);
    };
    let count = 0;
    for await (const _ of batch([..."abcdefgh"], work, { concurrency }).results) count++;
    expect([count, most]).toEqual([8, concurrency]);
  });

  test("a source that waits holds no answer back, and is left when the loop is", async () => {
    let left = false;
    const source: AsyncIterable<string> = {
      [Symbol.asyncIterator]: () => {
        let asked = 0;
        return {
          next: () => (asked++ ? new Promise<never>(() => {}) : Promise.resolve({ value: "a" })),
          return: async () => {
            left = true;
            return { done: true, value: undefined };
          },
        };
      },
    };
    for await (const { input } of batch(source, async (one) => answer(one), { concurrency: 4 }).results) {
      expect(input).toBe("a");
      break;
    }
    expect(left).toBe(true);
  });

  test.each(["abort", "close"] as const)(
    "ends at once on %s, also while a picture and the source wait",
    async (how) => {
      const controller = new AbortController();
      const signals: AbortSignal[] = [];
      const work = (_: string, signal: AbortSignal) => {
        signals.push(signal);
        return new Promise<never>(() => {});
      };
      const { results, calls } = batch([..."ab"], work, { signal: controller.signal });
      const next = results.next();
      await sleep(5);
      if (how === "abort") controller.abort();
      else calls.close();
      await expect(next).rejects.toMatchObject({ code: how === "abort" ? "aborted" : "disposed" });
      expect(signals.map(({ aborted }) => aborted)).toEqual([true, true]);
      expect(await results.next()).toEqual({ done: true, value: undefined });
    },
  );

  test("what the source throws reaches the loop", async () => {
    function* broken() {
      yield "a";
      throw new Error("unreadable folder");
    }
    const seen: string[] = [];
    const read = async () => {
      for await (const { input } of batch(broken(), async (one) => answer(one)).results) seen.push(input);
    };
    await expect(read()).rejects.toThrow("unreadable folder");
  });
});

test("eachOf keeps so many on their way", async () => {
  let [now, most] = [0, 0];
  const work = async (one: unknown) => {
    most = Math.max(most, ++now);
    await sleep(5);
    now--;
    return one;
  };
  expect(await eachOf(["a", "b", "c", "d", "e"] as const, 3, work)).toEqual(["a", "b", "c", "d", "e"]);
  expect(most).toBe(3);
});

test("eachOf names the first picture that fails by its place, counted from one, and keeps other errors as they are", async () => {
  const failing = (error: Error) => async (one: unknown) => {
    if (one !== "a") throw error;
    return one;
  };
  const ours = new SlimViTError("bad-input", "it is no picture");
  await expect(eachOf(["a", "b", "c"], 2, failing(ours))).rejects.toMatchObject({
    ...{ code: "bad-input", message: "Picture 2 of 3: it is no picture", cause: ours },
  });
  const theirs = new TypeError("not ours");
  await expect(eachOf(["a", "b"], 2, failing(theirs))).rejects.toBe(theirs);
  await expect(eachOf("b", 2, failing(ours))).rejects.toBe(ours);
});
