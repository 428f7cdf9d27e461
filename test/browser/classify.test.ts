/** One picture in a page: its forms, the options of a call, and what is answered. */
import { copyFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openStage, type Stage } from "./page.ts";

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

test.each(["reference", "simd"])("profile and explain are answered by %s; onnx-wasm cannot profile", async (engine) => {
  const out = await stage.page.evaluate(async (engine) => {
    const slow = await load({ engine, dtype: "f32" });
    const { blockMs, attention } = await slow.classify(picture(), { profile: true, explain: true });
    const fast = await load({ dtype: "f32" });
    const refused = await failure(fast.classify(picture(), { profile: true }));
    const explained = await fast.classify(picture(), { explain: true });
    const { latencyMs } = await fast.classify(picture());
    slow.dispose();
    fast.dispose();
    const sums = attention.map((map: Float32Array) => map.reduce((a, b) => a + b, 0));
    const apart = attention.map((map: Float32Array, i: number) =>
      Math.max(0, ...map.map((v, k) => Math.abs(v - explained.attention[i][k]))),
    );
    return {
      apart,
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
  expect(Math.max(...out.apart)).toBeLessThan(1e-4);
  expect(out.refused).toMatchObject({ code: "unsupported", ours: true });
  expect(out.latencyMs.inference).toBeGreaterThan(0);
});
