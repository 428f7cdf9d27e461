import { copyFileSync, cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openStage, type Stage } from "./page.ts";

describe.each([
  ["isolated", true],
  ["not isolated", false],
])("in a page that is %s", (_, isolated) => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await openStage(isolated);
  });
  afterAll(() => stage.close());

  test("simd, onnx-wasm and reference agree within 1e-4, in a module worker", async () => {
    const { classes, features, threads } = await stage.page.evaluate(async () => {
      const out = { classes: [] as number[][], features: [] as number[][], threads: [] as number[] };
      for (const engine of ["reference", "onnx-wasm", "simd"]) {
        const vit = await load({ engine, dtype: "f32", threads: 2 });
        const { classes } = await vit.classify(picture(), { topK: 3 });
        const scores: number[] = [];
        for (const { index, score } of classes) scores[index] = Math.log(score);
        out.classes.push(scores);
        out.features.push([...(await vit.embed(picture()))]);
        out.threads.push(vit.info.threads);
        vit.dispose();
      }
      return out;
    });
    for (const engine of [1, 2]) {
      classes[0].forEach((v, k) => void expect(Math.abs(classes[engine][k] - v)).toBeLessThan(1e-4));
      features[0].forEach((v, k) => void expect(Math.abs(features[engine][k] - v)).toBeLessThan(1e-4));
    }
    expect(features[0]).toHaveLength(16);
    expect(threads).toEqual(isolated ? [1, 2, 2] : [1, 1, 1]);
  });
});

describe("load", () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await openStage();
  });
  afterAll(() => stage.close());

  test("reports exact bytes, and the second visit comes from the cache", async () => {
    const { first, second, info } = await stage.page.evaluate(async () => {
      const visit = async () => {
        const seen: { loadedBytes: number; totalBytes: number; cached: boolean }[] = [];
        const vit = await load({ dtype: "f16", onProgress: (p: (typeof seen)[0]) => seen.push(p) });
        const { info } = vit;
        vit.dispose();
        return { last: seen.at(-1), info };
      };
      const { last: first, info } = await visit();
      const { last: second } = await visit();
      return { first, second, info };
    });
    const { size } = { size: readFileSync(join(stage.models, "tiny", "model.f16.safetensors")).length };
    expect(first).toMatchObject({ loadedBytes: size, totalBytes: size, cached: false });
    expect(second).toMatchObject({ loadedBytes: size, totalBytes: size, cached: true });
    expect(info).toMatchObject({ name: "tiny-slim", embedDim: 16, dtype: "f16", engine: "onnx-wasm", sizeBytes: size });
    expect(info.blocks[0].headDims).toEqual([8, 3]);
  });

  test("keeps weights in a store of one's own, and does not trust what it returns", async () => {
    const out = await stage.page.evaluate(async () => {
      const kept = new Map<string, Uint8Array>();
      const store = {
        get: async (sha256: string) => kept.get(sha256),
        put: async (sha256: string, bytes: Uint8Array) => void kept.set(sha256, bytes),
      };
      const visit = async () => {
        let cached = false;
        const vit = await load({ cache: store, onProgress: (p: { cached: boolean }) => (cached = p.cached) });
        const { score } = (await vit.classify(picture())).classes[0];
        vit.dispose();
        return { cached, score };
      };
      const visits = [await visit(), await visit()];
      for (const bytes of kept.values()) bytes[bytes.length - 9] ^= 1;
      visits.push(await visit(), await visit());
      const failing = { get: () => Promise.reject(new Error("gone")), put: () => Promise.reject(new Error("full")) };
      const vit = await load({ cache: failing });
      const { notes } = vit.info;
      vit.dispose();
      return { keys: [...kept.keys()], visits, notes };
    });
    expect(out.keys).toHaveLength(1);
    expect(out.visits.map((visit) => visit.cached)).toEqual([false, true, false, true]);
    expect(new Set(out.visits.map((visit) => visit.score)).size).toBe(1);
    expect(out.notes).toEqual([expect.stringMatching(/not kept .*full/)]);
  });

  test("takes files that the user picked", async () => {
    const files = ["slimvit.json", "model.f32.safetensors"].map((name) => ({
      name,
      base64: readFileSync(join(stage.models, "tiny", name)).toString("base64"),
    }));
    const label = await stage.page.evaluate(async (files) => {
      const blobs = await Promise.all(
        files.map(async ({ name, base64 }) => new File([await (await fetch(`data:;base64,${base64}`)).blob()], name)),
      );
      const vit = await load({ dtype: "f32" }, blobs);
      const { classes } = await vit.classify(picture());
      vit.dispose();
      return classes[0].label;
    }, files);
    expect(label).toMatch(/^a /);
  });

  test("a flipped bit in the weights is an integrity error", async () => {
    cpSync(join(stage.models, "tiny"), join(stage.models, "flipped"), { recursive: true });
    const path = join(stage.models, "flipped", "model.f32.safetensors");
    const bytes = readFileSync(path);
    bytes[bytes.length - 100] ^= 4;
    writeFileSync(path, bytes);
    const error = await stage.page.evaluate(() => failure(load({ dtype: "f32", cache: false }, "/models/flipped/")));
    expect(error).toMatchObject({ code: "integrity", ours: true });
    expect(error.message).toMatch(/flipped\/model\.f32\.safetensors: its sha256/);
  });

  test("an error brings its cause along from the worker", async () => {
    const cause = await stage.page.evaluate(() =>
      load({}, "http://127.0.0.1:1/").then(
        () => undefined,
        ({ code, cause }) => ({ code, isError: cause instanceof Error, name: cause.name, message: cause.message }),
      ),
    );
    expect(cause).toEqual({ code: "network", isError: true, name: "TypeError", message: "Failed to fetch" });
  });

  test.each([
    ["a folder without slimvit.json", "/models/none/", {}, "network", /none\/slimvit\.json: the server answered 404/],
    ["weights the folder has not", "/models/f32only/", { dtype: "f16" }, "bad-option", /has no f16 weights/],
    ["an engine that is none", "/models/tiny/", { engine: "quantum" }, "bad-option", /"quantum"/],
    ["an engine that is not installed", "/models/tiny/", { engineUrls: {} }, "unsupported", /onnxruntime-web/],
    ["a Hugging Face name that is none", "hf:nobody", {}, "bad-option", /hf:owner\/name/],
    ["a worker that is not there", "/models/tiny/", { workerUrl: "/dist/nowhere.js" }, "unsupported", /nowhere\.js/],
  ])("%s: one sentence and a code", async (_, source, options, code, message) => {
    cpSync(join(stage.models, "tiny"), join(stage.models, "f32only"), { recursive: true });
    const manifest = JSON.parse(readFileSync(join(stage.models, "f32only", "slimvit.json"), "utf8"));
    manifest.weights = manifest.weights.filter((file: { dtype: string }) => file.dtype === "f32");
    writeFileSync(join(stage.models, "f32only", "slimvit.json"), JSON.stringify(manifest));
    const error = await stage.page.evaluate(([source, options]) => failure(load(options as object, source)), [
      source,
      options,
    ] as const);
    expect(error).toMatchObject({ code, ours: true });
    expect(error.message).toMatch(message);
  });

  test("an abort while loading rejects with aborted", async () => {
    const error = await stage.page.evaluate(() => {
      const controller = new AbortController();
      const loading = failure(load({ cache: false, signal: controller.signal }));
      setTimeout(() => controller.abort(), 5);
      return loading;
    });
    expect(error).toMatchObject({ code: "aborted", ours: true });
  });
});

describe("classify", () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await openStage();
    copyFileSync(
      new URL("../../demo/samples/umbrella.jpg", import.meta.url).pathname,
      join(stage.models, "umbrella.jpg"),
    );
  });
  afterAll(() => stage.close());

  test("gives the same answer for every form of a picture, and leaves the original alone", async () => {
    const results = await stage.page.evaluate(async () => {
      const vit = await load({ dtype: "f32" });
      const url = "/models/umbrella.jpg";
      const blob = await (await fetch(url)).blob();
      const image = new Image();
      image.src = url;
      await image.decode();
      const bitmap = await createImageBitmap(blob);
      const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
      const context = canvas.getContext("2d")!;
      context.drawImage(bitmap, 0, 0);
      const pixels = context.getImageData(0, 0, bitmap.width, bitmap.height);
      const frame = new VideoFrame(canvas, { timestamp: 0 });
      const onPage = document.createElement("canvas");
      [onPage.width, onPage.height] = [bitmap.width, bitmap.height];
      onPage.getContext("2d")!.drawImage(bitmap, 0, 0);
      const forms = {
        url,
        address: new URL(url, location.href),
        blob,
        file: new File([blob], "umbrella.jpg"),
        onPage,
        image,
        bitmap,
        canvas,
        imageData: pixels,
        raw: { data: pixels.data, width: pixels.width, height: pixels.height },
        frame,
      };
      const scores: Record<string, number> = {};
      for (const [name, form] of Object.entries(forms)) scores[name] = (await vit.classify(form)).classes[0].score;
      const intact = bitmap.width > 0 && pixels.data.length > 0 && frame.codedWidth > 0;
      frame.close();
      vit.dispose();
      return { scores, intact };
    });
    expect(results.intact).toBe(true);
    const { url, ...others } = results.scores;
    for (const [form, score] of Object.entries(others))
      expect([form, Math.abs(score - url) < 0.02]).toEqual([form, true]);
  });

  test("topK, threshold, allow, deny and region do what they say", async () => {
    const out = await stage.page.evaluate(async () => {
      const vit = await load({ dtype: "f32" });
      const labels = async (options: object) =>
        (await vit.classify(picture(), options)).classes.map((c: { id: string }) => c.id);
      const all = await vit.classify(picture(), { topK: 99 });
      const result = {
        sum: all.classes.reduce((sum: number, c: { score: number }) => sum + c.score, 0),
        all: all.classes.map((c: { id: string }) => c.id),
        one: await labels({ topK: 1 }),
        high: await labels({ scoreThreshold: 1 }),
        allowed: await labels({ allow: ["plums"] }),
        denied: await labels({ deny: ["a plums"] }),
        unknown: await failure(vit.classify(picture(), { allow: ["kiwis"] })),
        outside: await failure(vit.classify(picture(), { region: { x: 40, y: 0, width: 20, height: 20 } })),
        latency: all.latencyMs,
      };
      vit.dispose();
      return result;
    });
    expect(out.sum).toBeCloseTo(1, 6);
    expect(out.all).toHaveLength(3);
    expect(out.one).toEqual(out.all.slice(0, 1));
    expect(out.high).toEqual([]);
    expect(out.allowed).toEqual(["plums"]);
    expect([...out.denied].sort()).toEqual(["bananas", "cherries"]);
    expect(out.unknown).toMatchObject({ code: "bad-option", ours: true });
    expect(out.outside).toMatchObject({ code: "bad-option", ours: true });
    expect(out.latency.total).toBeGreaterThanOrEqual(out.latency.inference);
  });

  test("turns a photo upright by its EXIF orientation, and takes a region as the picture it shows", async () => {
    const upright = readFileSync(new URL("../../demo/samples/umbrella.jpg", import.meta.url));
    // What a phone held sideways writes: pixels turned to the left, and a tag that says to turn them back.
    const untold = await sharp(upright).rotate(270).jpeg({ quality: 100, chromaSubsampling: "4:4:4" }).toBuffer();
    const turned = await sharp(untold)
      .withMetadata({ orientation: 6 })
      .jpeg({ quality: 100, chromaSubsampling: "4:4:4" })
      .toBuffer();
    const out = await stage.page.evaluate(
      async (files) => {
        const [upright, turned, untold] = await Promise.all(
          files.map(async (base64) => (await fetch(`data:image/jpeg;base64,${base64}`)).blob()),
        );
        const vit = await load({ dtype: "f32" });
        const bitmap = await createImageBitmap(upright);
        const region = { x: 20, y: 30, width: 90, height: 70 };
        const canvas = new OffscreenCanvas(region.width, region.height);
        canvas.getContext("2d")!.drawImage(bitmap, -region.x, -region.y);
        const raw = canvas.getContext("2d")!.getImageData(0, 0, region.width, region.height);
        const vectors = [];
        for (const [image, options] of [
          [upright],
          [turned],
          [raw],
          [upright, { region }],
          [turned, { region }],
          [untold],
        ])
          vectors.push([...(await vit.embed(image, options))]);
        vit.dispose();
        return vectors as number[][];
      },
      [upright, turned, untold].map((file) => file.toString("base64")),
    );
    const distance = (a: number[], b: number[]) => Math.max(...a.map((v, i) => Math.abs(v - b[i])));
    const [whole, wholeTurned, cropped, region, regionTurned, ignored] = out;
    expect(distance(cropped, region)).toBe(0);
    const small = distance(whole, ignored) / 5; // the turned file went through JPEG twice more
    expect(distance(whole, wholeTurned)).toBeLessThan(small);
    expect(distance(region, regionTurned)).toBeLessThan(small);
    expect(distance(whole, region)).toBeGreaterThan(small);
  });

  test("what is no picture is bad-input, and the next call works", async () => {
    const out = await stage.page.evaluate(async () => {
      const vit = await load();
      const bad = [
        await failure(vit.classify(new File(["no picture"], "notes.txt"))),
        await failure(vit.classify("/models/not-a-picture.txt")),
        await failure(vit.classify({ data: new Uint8ClampedArray(7), width: 2, height: 2 })),
        await failure(vit.classify({ data: new Uint8ClampedArray(0), width: 0, height: 0 })),
        await failure(vit.classify(new Image())),
        await failure(vit.classify(null)),
      ];
      const missing = await failure(vit.classify("/models/nowhere.jpg"));
      const { classes } = await vit.classify(picture());
      vit.dispose();
      return { bad, missing, classes: classes.length };
    });
    for (const error of out.bad) expect(error).toMatchObject({ code: "bad-input", ours: true });
    expect(out.bad[0].message).toMatch(/notes\.txt/);
    expect(out.missing).toMatchObject({ code: "network", ours: true });
    expect(out.classes).toBe(3);
  });
});

describe("lifecycle", () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await openStage();
  });
  afterAll(() => stage.close());

  test("dispose rejects calls in flight, is idempotent, and later calls say disposed", async () => {
    const [flying, later] = await stage.page.evaluate(async () => {
      const vit = await load({ engine: "reference" });
      const flying = failure(vit.classify(picture()));
      await new Promise((resolve) => setTimeout(resolve, 1));
      vit.dispose();
      vit.dispose();
      return [await flying, await failure(vit.classify(picture()))];
    });
    expect(flying).toMatchObject({ code: "disposed", ours: true });
    expect(later).toMatchObject({ code: "disposed", ours: true });
  });

  test("an abort during classify rejects with aborted, the next call works", async () => {
    const out = await stage.page.evaluate(async () => {
      const vit = await load({ engine: "reference" });
      const controller = new AbortController();
      const aborted = failure(vit.classify(picture(), { signal: controller.signal }));
      controller.abort();
      const error = await aborted;
      const { classes } = await vit.classify(picture());
      vit.dispose();
      return { error, classes: classes.length };
    });
    expect(out.error).toMatchObject({ code: "aborted", ours: true });
    expect(out.classes).toBe(3);
  });

  test("a worker that dies rejects what is in flight with worker-lost; the next call runs on a fresh one", async () => {
    const out = await stage.page.evaluate(async () => {
      // The page keeps hold of every worker it starts, to be able to break one.
      const workers: Worker[] = [];
      const Original = Worker;
      globalThis.Worker = class extends Original {
        constructor(url: string | URL, options?: WorkerOptions) {
          super(url, options);
          workers.push(this);
        }
      };
      const vit = await load({ engine: "reference" });
      const before = (await vit.classify(picture())).classes[0].score;
      const flying = failure(vit.classify(picture(2000, 2000)));
      await new Promise((resolve) => setTimeout(resolve, 1));
      workers.at(-1)!.terminate(); // fires no event
      const killed = performance.now();
      const error = await flying;
      const rejectedAfterMs = performance.now() - killed;
      const after = (await vit.classify(picture())).classes[0].score;
      vit.dispose();
      globalThis.Worker = Original;
      return { error, same: before === after, workers: workers.length, rejectedAfterMs };
    });
    expect(out.rejectedAfterMs).toBeLessThan(1000);
    expect(out.error).toMatchObject({ code: "worker-lost", ours: true });
    expect(out.same).toBe(true);
    expect(out.workers).toBe(2);
  });

  test("a worker killed while it loads rejects the load, and the next load works", async () => {
    const out = await stage.page.evaluate(async () => {
      const workers: Worker[] = [];
      const Original = Worker;
      globalThis.Worker = class extends Original {
        constructor(url: string | URL, options?: WorkerOptions) {
          super(url, options);
          workers.push(this);
        }
      };
      const loading = failure(load({ cache: false, onProgress: () => workers.at(-1)!.terminate() }));
      const error = await loading;
      globalThis.Worker = Original;
      const vit = await load({ cache: false });
      vit.dispose();
      return error;
    });
    expect(out).toMatchObject({ code: "worker-lost", ours: true });
  });

  test("many calls at once are answered in order, and one aborted in the queue never runs", async () => {
    const out = await stage.page.evaluate(async () => {
      const vit = await load({ engine: "reference" });
      const controller = new AbortController();
      const done: (number | string)[] = [];
      const calls = [0, 1, 2, 3, 4].map((k) =>
        vit
          .classify(picture(30 + k, 40), k === 3 ? { signal: controller.signal } : {})
          .then(() => done.push(k))
          .catch((error: { code: string }) => done.push(`${k} ${error.code}`)),
      );
      controller.abort();
      await Promise.all(calls);
      vit.dispose();
      return done;
    });
    expect(out).toEqual(["3 aborted", 0, 1, 2, 4]);
  });

  test.each(["reference", "simd"])("profile and explain are answered by %s, refused by onnx-wasm", async (engine) => {
    const out = await stage.page.evaluate(async (engine) => {
      const slow = await load({ engine });
      const { blockMs, attention } = await slow.classify(picture(), { profile: true, explain: true });
      const fast = await load();
      const refused = await failure(fast.classify(picture(), { explain: true }));
      const { latencyMs } = await fast.classify(picture());
      slow.dispose();
      fast.dispose();
      const sums = attention.map((map: Float32Array) => map.reduce((a, b) => a + b, 0));
      return {
        blocks: blockMs.length,
        lengths: attention.map((map: Float32Array) => map.length),
        sums,
        refused,
        latencyMs,
      };
    }, engine);
    expect(out.blocks).toBe(3);
    expect(out.lengths).toEqual([15, 0, 3]);
    expect(out.sums[0]).toBeCloseTo(1, 5);
    expect(out.refused).toMatchObject({ code: "unsupported", ours: true });
    expect(out.latencyMs.inference).toBeGreaterThan(0);
  });

  test("an engine that gives other logits than the model's known input is refused", async () => {
    const folder = join(stage.models, "lying");
    cpSync(join(stage.models, "tiny"), folder, { recursive: true });
    const manifest = JSON.parse(readFileSync(join(folder, "slimvit.json"), "utf8"));
    for (const file of manifest.weights) file.selfTest.logits[0] += 1;
    writeFileSync(join(folder, "slimvit.json"), JSON.stringify(manifest));
    const error = await stage.page.evaluate(() => failure(load({}, "/models/lying/")));
    expect(error).toMatchObject({ code: "unsupported", ours: true });
    expect(error.message).toMatch(/known input/);
  });

  test("two models at once keep apart", async () => {
    const scores = await stage.page.evaluate(async () => {
      const [a, b] = await Promise.all([load({ dtype: "f32" }), load({ dtype: "int8" })]);
      const runs = await Promise.all([
        a.classify(picture()),
        b.classify(picture()),
        a.classify(picture()),
        b.classify(picture()),
      ]);
      a.dispose();
      b.dispose();
      return runs.map((run) => run.classes[0].score);
    });
    expect(scores[0]).toBe(scores[2]);
    expect(scores[1]).toBe(scores[3]);
    expect(scores[0]).not.toBe(scores[1]);
  });

  test("a page that may only load workers from blobs still gets one", async () => {
    const score = await stage.page.evaluate(async () => {
      const Original = Worker;
      globalThis.Worker = class extends Original {
        constructor(url: string | URL, options?: WorkerOptions) {
          if (!String(url).startsWith("blob:")) throw new DOMException("refused", "SecurityError");
          super(url, options);
        }
      };
      const vit = await load();
      const { classes } = await vit.classify(picture());
      vit.dispose();
      globalThis.Worker = Original;
      return classes[0].score;
    });
    expect(score).toBeGreaterThan(0);
  });
});
