/** Forms of pictures that browsers treat differently, cameras that are not ready, and many files at once. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openStage, type Stage } from "./page.ts";

/** Halves of two colours, so that a turned picture has other features. */
const SVG = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">
  <rect width="64" height="64" fill="#c8285a"/><rect width="64" height="32" fill="#28c85a"/></svg>`;

let stage: Stage;
beforeAll(async () => {
  stage = await openStage(true, {}, ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]);
  writeFileSync(join(stage.models, "drawing.svg"), SVG);
  const upright = sharp(Buffer.from(SVG)).flatten().toColourspace("srgb");
  writeFileSync(join(stage.models, "upright.png"), await upright.png().toBuffer());
  for (const orientation of [1, 2, 3, 4, 5, 6, 7, 8]) {
    const turned = sharp(Buffer.from(SVG)).flatten().withMetadata({ orientation });
    const file = await turned.webp({ lossless: true }).toBuffer();
    writeFileSync(join(stage.models, `turned-${orientation}.webp`), file);
    writeFileSync(join(stage.models, `turned-${orientation}.png`), await sharp(file).rotate().png().toBuffer());
  }
});
afterAll(() => stage.close());

test("an ArrayBuffer, its bytes, a Response and an SVG drawing in every form are pictures", async () => {
  const out = await stage.page.evaluate(async () => {
    const vit = await load({ engine: "simd", dtype: "f32" });
    const [png, svg] = ["/models/upright.png", "/models/drawing.svg"];
    const bytes = await (await fetch(png)).arrayBuffer();
    const text = await (await fetch(svg)).text();
    const forms = {
      buffer: bytes,
      bytes: new Uint8Array(bytes),
      response: await fetch(png),
      svgUrl: svg,
      svgResponse: await fetch(svg),
      svgFile: new File([text], "drawing.svg"),
      svgBlob: new Blob([text], { type: "image/svg+xml" }),
      svgData: `data:image/svg+xml,${encodeURIComponent(text)}`,
    };
    const expected: Float32Array = await vit.embed(png);
    const off: Record<string, number> = {};
    for (const [name, form] of Object.entries(forms)) {
      const vector: Float32Array = await vit.embed(form);
      off[name] = Math.max(...vector.map((v, i) => Math.abs(v - expected[i])));
    }
    const used = await fetch(png);
    await used.arrayBuffer();
    const errors = {
      missing: await failure(vit.embed(await fetch("/models/nowhere.png"))),
      used: await failure(vit.embed(used)),
      page: await failure(vit.embed(new Response("<!doctype html><html></html>"))),
      brokenSvg: await failure(vit.embed(new File(["<svg"], "broken.svg"))),
      hiddenSvg: await failure(vit.embed(new Blob([text]))),
      heic: await failure(
        vit.embed(
          new Blob([
            Uint8Array.from("\0\0\0\x18ftypheic\0\0\0\0heicmif1\0\0\0\x14ispe\0\0\0\0\0\0\0\x40\0\0\0\x40", (c) =>
              c.charCodeAt(0),
            ),
          ]),
        ),
      ),
    };
    vit.dispose();
    return { off, errors, bytesLeft: bytes.byteLength };
  });
  const { buffer, bytes, response, ...drawings } = out.off;
  expect([buffer, bytes, response]).toEqual([0, 0, 0]);
  for (const [name, off] of Object.entries(drawings)) expect(off, name).toBeLessThan(0.02); // drawn at another size
  expect(out.bytesLeft).toBeGreaterThan(0);
  for (const error of Object.values(out.errors)) expect(error.ours).toBe(true);
  expect(out.errors).toMatchObject({
    missing: { code: "network", message: expect.stringMatching(/answered 404/) },
    used: { code: "bad-input", message: expect.stringMatching(/read already/) },
    page: { code: "bad-input" },
    brokenSvg: { code: "bad-input", message: expect.stringMatching(/broken\.svg: is no SVG drawing/) },
    hiddenSvg: { code: "bad-input", message: expect.stringMatching(/is an SVG drawing.*type image\/svg\+xml/) },
    heic: { code: "bad-input", message: expect.stringMatching(/is HEIC.*Convert it to JPEG/) },
  });
});

test("a WebP's EXIF orientation is followed, and regions are those of the upright picture", async () => {
  const off = await stage.page.evaluate(async () => {
    const vit = await load({ engine: "simd", dtype: "f32" });
    const off: number[] = [];
    for (let orientation = 1; orientation <= 8; orientation++) {
      for (const region of [undefined, { x: 5, y: 9, width: 40, height: 50 }]) {
        const expected: Float32Array = await vit.embed(`/models/turned-${orientation}.png`, { region });
        const actual: Float32Array = await vit.embed(`/models/turned-${orientation}.webp`, { region });
        off.push(Math.max(...actual.map((v, i) => Math.abs(v - expected[i]))));
      }
    }
    vit.dispose();
    return off;
  });
  expect(off).toEqual(Array(16).fill(0));
});

test("a camera in a video that has no frame yet is waited for, not an error", async () => {
  const out = await stage.page.evaluate(async () => {
    const vit = await load({ engine: "simd", dtype: "f32" });
    const answers: number[] = [];
    for (let visit = 0; visit < 4; visit++) {
      const video = document.createElement("video");
      video.autoplay = video.muted = true;
      document.body.append(video);
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
      let seen = 0;
      for await (const _ of vit.stream(video)) if (++seen === 3) break;
      answers.push(seen);
      for (const track of (video.srcObject as MediaStream).getTracks()) track.stop();
      video.remove();
    }
    vit.dispose();
    return answers;
  });
  expect(out).toEqual([3, 3, 3, 3]);
});

test("frames that are closed already are skipped", async () => {
  const answers = await stage.page.evaluate(async () => {
    const vit = await load({ engine: "simd", dtype: "f32" });
    const canvas = new OffscreenCanvas(64, 64);
    canvas.getContext("2d")!.fillRect(0, 0, 64, 64);
    async function* frames() {
      for (let k = 0; k < 6; k++) {
        const frame = new VideoFrame(canvas, { timestamp: k });
        if (k % 2 === 0) frame.close();
        yield frame;
        await new Promise((resolve) => setTimeout(resolve, 300));
      }
    }
    let answers = 0;
    for await (const _ of vit.stream(frames())) answers++;
    vit.dispose();
    return answers;
  });
  expect(answers).toBe(3);
});

test("classifyAll gives each file's result or error in turn, reports progress, and stops at once", async () => {
  const out = await stage.page.evaluate(async () => {
    const vit = await load({ engine: "simd", dtype: "f32" });
    const png = await (await fetch("/models/upright.png")).blob();
    const files = ["a", "b", "c", "d", "e"].map((name) => new File(name === "c" ? ["no picture"] : [png], name));
    const seen: unknown[] = [];
    const progress: unknown[] = [];
    const options = { topK: 1, concurrency: 3, onProgress: (p: unknown) => progress.push(p) };
    for await (const { index, input, result, error } of vit.classifyAll(files, options))
      seen.push([index, input.name, result?.classes.length ?? error!.code]);
    const controller = new AbortController();
    let answered = 0;
    const endless = (async function* () {
      for (;;) yield png;
    })();
    const aborted = await failure(
      (async () => {
        for await (const _ of vit.classifyAll(endless, { signal: controller.signal }))
          if (++answered === 4) controller.abort();
      })(),
    );
    const after = (await vit.classify(png)).classes.length;
    vit.dispose();
    return { seen, progress: progress.at(-1), aborted, answered, after };
  });
  expect(out.seen).toEqual([
    [0, "a", 1],
    [1, "b", 1],
    [2, "c", "bad-input"],
    [3, "d", 1],
    [4, "e", 1],
  ]);
  expect(out.progress).toEqual({ done: 5, failed: 1, total: 5 });
  expect(out.aborted).toMatchObject({ code: "aborted", ours: true });
  expect([out.answered, out.after]).toEqual([4, 3]);
});
