/** Calls in Node that are asked wrongly or left half way. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { type ImageInput, type LoadOptions, type ModelSource, SlimViT } from "../../src/index.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { randomModel } from "../helpers.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-calls-"));
  const arch = { imageSize: [8, 8] as [number, number], patchSize: 4, embedDim: 8, headDim: 4, layerNormEps: 1e-6 };
  const blocks = [{ headDims: [4], mlpHidden: 8, keepIdx: [0, 1, 2] }];
  const { manifest, tensors } = randomModel({ ...arch, prefixTokens: 1, blocks }, 3);
  writeModelFolder(folder, manifest, tensors, ["f32"]);
});
afterAll(() => rmSync(folder, { recursive: true }));

const picture = () => ({ data: new Uint8Array(64 * 4).fill(99), width: 8, height: 8 });

/** One picture, and then none, but no end either. */
function silentSource(only: ImageInput = picture()) {
  let asked = 0;
  const source = {
    isLeft: false,
    [Symbol.asyncIterator]: () => ({
      next: () => (asked++ ? new Promise<never>(() => {}) : Promise.resolve({ value: only })),
      async return() {
        source.isLeft = true;
        return { done: true as const, value: undefined };
      },
    }),
  };
  return source;
}

test.each(["disposed", "aborted"])(
  "a stream that waits for a frame ends when it is %s, and leaves its source",
  async (code) => {
    const vit = await SlimViT.load(folder, { engine: "reference" });
    const controller = new AbortController();
    const source = silentSource();
    const answers = vit.stream(source, { signal: controller.signal });
    expect((await answers.next()).value.classes).toHaveLength(5);
    const waiting = answers.next();
    if (code === "disposed") vit.dispose();
    else controller.abort();
    await expect(waiting).rejects.toMatchObject({ code });
    expect(await answers.next()).toEqual({ done: true, value: undefined });
    expect(source.isLeft).toBe(true);
    vit.dispose();
  },
);

test.each([null, undefined, 7, {}, new Blob([])])("%s is no source of a model", async (source) => {
  await expect(SlimViT.load(source as ModelSource)).rejects.toMatchObject({ code: "bad-option" });
});

test("a label given alone, not in a list, is named", async () => {
  const vit = await SlimViT.load(folder, { engine: "reference" });
  const call = vit.classify(picture(), { deny: "class 1" as unknown as string[] });
  await expect(call).rejects.toMatchObject({ code: "bad-option", message: /deny is "class 1"; expected a list/ });
  vit.dispose();
});

test.each([{ engine: "gpu" }, { engine: "" }, { threads: 0 }, { threads: 65 }, { threads: 1.5 }, { threads: "2" }])(
  "%o is refused before anything is asked for",
  async (options) => {
    const call = SlimViT.load("http://127.0.0.1:1/", options as LoadOptions); // where nobody answers
    await expect(call).rejects.toMatchObject({
      code: "bad-option",
      message: expect.stringMatching(/^(engine|threads) is .*; expected "auto" or /),
    });
  },
);

test("hf:owner/name is read from Hugging Face's files of that repository", async () => {
  const from = "https://huggingface.co/some-one/a.model/resolve/main/";
  const asked: string[] = [];
  vi.stubGlobal("fetch", async (url: string) => {
    asked.push(url);
    return new Response(readFileSync(join(folder, url.slice(from.length))));
  });
  try {
    const vit = await SlimViT.load("hf:some-one/a.model", { engine: "reference", cache: false });
    const alike = await SlimViT.load(folder, { engine: "reference" });
    expect((await vit.classify(picture())).classes).toEqual((await alike.classify(picture())).classes);
    vit.dispose();
    alike.dispose();
  } finally {
    vi.unstubAllGlobals();
  }
  expect(asked).toEqual([`${from}slimvit.json`, `${from}model.f32.safetensors`]);
});

test("a Worker that something else has set in Node is not taken for a browser's", async () => {
  vi.stubGlobal("Worker", function notABrowsers() {
    throw new Error("no browser's worker");
  });
  try {
    const vit = await SlimViT.load(folder, { engine: "reference" });
    expect((await vit.classify(picture())).classes).toHaveLength(5);
    vit.dispose();
  } finally {
    vi.unstubAllGlobals();
  }
});

test("a stream of pictures that are no video gives every one", async () => {
  const vit = await SlimViT.load(folder, { engine: "reference" });
  const first: number[] = [];
  async function* pictures() {
    for (let k = 0; k < 8; k++) yield { ...picture(), data: new Uint8Array(64 * 4).fill(30 * k) };
  }
  for await (const { classes } of vit.stream(pictures(), { topK: 1 })) first.push(classes[0].score);
  const alone: number[] = [];
  for await (const one of pictures()) alone.push((await vit.classify(one, { topK: 1 })).classes[0].score);
  expect(first).toEqual(alone);
  vit.dispose();
});

test.each<[string, unknown, RegExp]>([
  ["a list", [], /was given a list; .* use classifyAll\(list\)/],
  ["nothing", undefined, /was given undefined; expected a video element/],
  ["a number", 7, /was given 7; expected a video element/],
])("%s is no stream, and the error is ours", async (_, source, message) => {
  const vit = await SlimViT.load(folder, { engine: "reference" });
  const answers = vit.stream(source as AsyncIterable<ImageInput>);
  await expect(answers.next()).rejects.toMatchObject({
    name: "SlimViTError",
    code: "bad-input",
    message: expect.stringMatching(message),
  });
  vit.dispose();
});

test("misspelt options are refused by every call", async () => {
  await expect(SlimViT.load(folder, { dType: "f32" } as object)).rejects.toMatchObject({
    code: "bad-option",
    message: 'load has no option "dType"; did you mean dtype?',
  });
  const vit = await SlimViT.load(folder, { engine: "reference" });
  const topk = { topk: 1 } as object;
  const calls = [
    vit.classify(picture(), topk),
    vit.embed(picture(), topk),
    vit.stream(silentSource(), topk).next(),
    vit.classifyAll([picture()], topk).next(),
  ];
  for (const call of calls) await expect(call).rejects.toMatchObject({ code: "bad-option" });
  vit.dispose();
});

test("a part of a picture is looked at by every call as the same part alone would be", async () => {
  const vit = await SlimViT.load(folder, { engine: "reference" });
  const [width, height] = [20, 12];
  const region = { x: 9, y: 3, width: 8, height: 8 };
  const whole = { data: Uint8Array.from({ length: 4 * width * height }, (_, k) => (k * k * 31) % 251), width, height };
  const cut = { data: new Uint8Array(4 * 64), width: 8, height: 8 };
  for (let y = 0; y < 8; y++)
    cut.data.set(whole.data.subarray(4 * ((y + 3) * width + 9), 4 * ((y + 3) * width + 17)), 32 * y);
  const [classes, features] = [(await vit.classify(cut)).classes, await vit.embed(cut)];
  expect((await vit.classify(whole)).classes).not.toEqual(classes);
  expect((await vit.classify(whole, { region })).classes).toEqual(classes);
  expect(await vit.embed(whole, { region })).toEqual(features);
  for await (const { result } of vit.classifyAll([whole], { region })) expect(result!.classes).toEqual(classes);
  for await (const { result } of vit.embedAll([whole], { region })) expect(result).toEqual(features);
  for await (const answer of vit.stream(silentSource(whole), { region })) {
    expect(answer.classes).toEqual(classes);
    break;
  }
  vit.dispose();
});

test("read-only lists are taken", async () => {
  const vit = await SlimViT.load(folder, { engine: "reference" });
  const allow = ["c1", "c2"] as const;
  const pictures = Object.freeze([picture(), picture()]) as readonly ReturnType<typeof picture>[];
  const answers = await vit.classify(pictures, { allow });
  expect(answers.map(({ classes }) => classes.length)).toEqual([2, 2]);
  vit.dispose();
});

test("an embedding model classifies by the caller's vectors, and says so when there are none", async () => {
  const arch = { imageSize: [8, 8] as [number, number], patchSize: 4, embedDim: 8, headDim: 4, layerNormEps: 1e-6 };
  const blocks = [{ headDims: [4], mlpHidden: 8, keepIdx: [0, 1, 2] }];
  const { manifest, tensors } = randomModel({ ...arch, prefixTokens: 1, blocks, head: undefined }, 3, 0);
  const embedding = join(folder, "embedding");
  writeModelFolder(embedding, { ...manifest, head: undefined, labels: [] }, tensors, ["f32"], {}, true);
  const vit = await SlimViT.load(embedding, { engine: "reference" });
  expect(vit.info.labels).toEqual([]);
  const vector = await vit.embed(picture());
  const classes = { "the same": vector, opposite: vector.map((v) => -v) };
  const { classes: found } = await vit.classify(picture(), { classes });
  expect(found.map(({ label }) => label)).toEqual(["the same", "opposite"]);
  expect(found[0].score).toBeCloseTo(1);
  await expect(vit.classify(picture())).rejects.toMatchObject({
    code: "unsupported",
    message: expect.stringMatching(/embedding model/),
  });
  vit.dispose();
});

test.each(["dispose", "asyncDispose"] as const)("Symbol.%s disposes", async (name) => {
  const vit = await SlimViT.load(folder, { engine: "reference" });
  const flying = vit.classify(picture());
  const gone = expect(flying).rejects.toMatchObject({ code: "disposed" });
  await vit[Symbol[name]]();
  await gone;
  await expect(vit.classify(picture())).rejects.toMatchObject({ code: "disposed" });
});
