import { expect, test } from "vitest";
import { SlimViT } from "../../src/index.ts";
import { CLASSIFY_ALL } from "../../src/page/batchOf.ts";
import { CLASSIFY, checkOptions, EMBED, LOAD } from "../../src/page/options.ts";
import { STREAM } from "../../src/page/videoFrames.ts";

const KNOWN = { load: LOAD, classify: CLASSIFY, classifyAll: CLASSIFY_ALL, stream: STREAM, embed: EMBED };

test.each<[keyof typeof KNOWN, object, string]>([
  ["load", { dType: "int8" }, 'load has no option "dType"; did you mean dtype?'],
  ["load", { onprogress: () => {} }, 'load has no option "onprogress"; did you mean onProgress?'],
  ["load", { thread: 2 }, 'load has no option "thread"; did you mean threads?'],
  ["classify", { topk: 3 }, 'classify has no option "topk"; did you mean topK?'],
  ["classify", { scoreTreshold: 0.1 }, 'classify has no option "scoreTreshold"; did you mean scoreThreshold?'],
  ["classifyAll", { concurency: 4 }, 'classifyAll has no option "concurency"; did you mean concurrency?'],
  ["stream", { topk: 3 }, 'stream has no option "topk"; did you mean topK?'],
  ["embed", { profile: true }, 'embed has no option "profile"; expected one of signal, region.'],
])("%s refuses %o", async (call, options, message) => {
  await expect(checkOptions(call, options, KNOWN[call])).rejects.toMatchObject({ code: "bad-option", message });
});

test.each([null, 7, "int8"])("%o is no set of options", async (options) => {
  await expect(SlimViT.load("http://127.0.0.1:1/", options as never)).rejects.toMatchObject({ code: "bad-option" });
});

test("every option that is documented is known", () => {
  const signal = new AbortController().signal;
  const load = { engine: "simd", dtype: "f32", variant: "a", threads: 1, cache: true, signal, webnn: {} };
  const batch = { topK: 1, allow: [], classes: {}, temperature: 1, concurrency: 1, region: undefined };
  expect([checkOptions("load", load, LOAD), checkOptions("classifyAll", batch, CLASSIFY_ALL)]).toEqual([
    undefined,
    undefined,
  ]);
});
