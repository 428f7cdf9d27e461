/** Batches and video in a page. */
import sharp from "sharp";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openStage, type Stage } from "./page.ts";

let stage: Stage;
beforeAll(async () => {
  stage = await openStage();
});
afterAll(() => stage.close());

test("a batch gives each picture's answer, in order, and an error names its picture", async () => {
  const out = await stage.page.evaluate(async () => {
    const vit = await load({ engine: "simd", dtype: "f32" });
    const pictures = [picture(40, 40), new ImageData(30, 60), picture(90, 31), picture(33, 70)];
    const scores = (results: { classes: { score: number }[] }[]) => results.map(({ classes }) => classes[0].score);
    const alone = [];
    for (const one of pictures) alone.push(await vit.classify(one));
    const result = {
      alone: scores(alone),
      together: scores(await vit.classify(pictures)),
      vectors: (await vit.embed(pictures)).map((vector: Float32Array) => vector.length),
      none: await vit.classify([]),
      broken: await failure(vit.classify([pictures[0], new File(["no picture"], "notes.txt"), pictures[1]])),
      aborted: await failure(vit.classify(pictures, { signal: AbortSignal.abort() })),
      after: scores([await vit.classify(pictures[0])]),
    };
    vit.dispose();
    return result;
  });
  expect(out.together).toEqual(out.alone);
  expect(out.vectors).toEqual([16, 16, 16, 16]);
  expect(out.none).toEqual([]);
  expect(out.broken).toMatchObject({ code: "bad-input", ours: true });
  expect(out.broken.message).toMatch(/^Picture 2 of 3: .*notes\.txt/);
  expect(out.aborted).toMatchObject({ code: "aborted", ours: true });
  expect(out.after).toEqual(out.alone.slice(0, 1));
});

test("a stream of frames: the newest wins, those between are dropped, every frame is closed", async () => {
  const out = await stage.page.evaluate(async () => {
    const vit = await load({ engine: "simd", dtype: "f32" });
    const frames: VideoFrame[] = [];
    const sent = 60;
    const source = new ReadableStream<VideoFrame>({
      async start(controller) {
        for (let k = 0; k < sent; k++) {
          const canvas = new OffscreenCanvas(64, 64);
          const context = canvas.getContext("2d")!;
          context.fillStyle = `rgb(${4 * k}, ${255 - 4 * k}, 99)`;
          context.fillRect(0, 0, 64, 40);
          frames.push(new VideoFrame(canvas, { timestamp: k }));
          controller.enqueue(frames.at(-1)!);
          if (k % 20 === 19) await new Promise((resolve) => setTimeout(resolve, 100));
        }
        controller.close();
      },
    });
    const scores: number[] = [];
    for await (const { classes } of vit.stream(source, { topK: 1 })) scores.push(classes[0].score);
    const open = frames.filter((frame) => frame.codedWidth > 0).length;
    vit.dispose();
    return { answers: scores.length, sent: frames.length, open };
  });
  expect(out.sent).toBe(60);
  expect(out.answers).toBeGreaterThan(1);
  expect(out.answers).toBeLessThan(60);
  expect(out.open).toBe(0);
});

test("a video element is classified while it plays; leaving the loop, an abort and the end all stop it", async () => {
  const out = await stage.page.evaluate(async () => {
    const vit = await load({ engine: "simd", dtype: "f32" });
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 64;
    const context = canvas.getContext("2d")!;
    let painted = 0;
    const painting = setInterval(() => {
      context.fillStyle = `hsl(${(painted += 7)} 90% 50%)`;
      context.fillRect(0, 0, 64, 64);
    }, 20);
    const video = document.createElement("video");
    video.muted = true;
    video.srcObject = canvas.captureStream();
    await video.play();
    const seen: number[] = [];
    for await (const { classes } of vit.stream(video, { topK: 1 })) {
      seen.push(classes[0].score);
      if (seen.length === 5) break;
    }
    const controller = new AbortController();
    const aborted = failure(
      (async () => {
        for await (const _ of vit.stream(video, { signal: controller.signal })) controller.abort();
      })(),
    );
    const error = await aborted;
    const chunks: Blob[] = [];
    const recorder = new MediaRecorder(video.srcObject as MediaStream, { mimeType: "video/webm" });
    recorder.ondataavailable = ({ data }) => chunks.push(data);
    recorder.start();
    await new Promise((resolve) => setTimeout(resolve, 600));
    const stopped = new Promise((resolve) => (recorder.onstop = resolve));
    recorder.stop();
    await stopped;
    clearInterval(painting);
    video.srcObject = null;
    video.src = URL.createObjectURL(new Blob(chunks));
    await video.play();
    let rest = 0;
    for await (const _ of vit.stream(video)) rest++;
    vit.dispose();
    return { seen, error, ended: video.ended, rest };
  });
  expect(out.seen).toHaveLength(5);
  expect(new Set(out.seen).size).toBeGreaterThan(1);
  expect(out.error).toMatchObject({ code: "aborted", ours: true });
  expect(out.ended).toBe(true);
  expect(out.rest).toBeGreaterThan(0);
});

test("a source that fails says so to the loop", async () => {
  const message = await stage.page.evaluate(async () => {
    const vit = await load({ engine: "simd", dtype: "f32" });
    async function* camera() {
      yield picture();
      await new Promise((resolve) => setTimeout(resolve, 50));
      throw new Error("unplugged");
    }
    let answers = 0;
    try {
      for await (const _ of vit.stream(camera())) answers++;
      return "it ended";
    } catch (error) {
      return `${answers} ${(error as Error).message}`;
    } finally {
      vit.dispose();
    }
  });
  expect(message).toBe("1 unplugged");
});

test("a strip is drawn, and one longer than a canvas can be is refused, not taken for an empty one", async () => {
  const strip = async (width: number, height: number) => {
    const create = { width, height, channels: 3 as const, background: { r: 200, g: 40, b: 90 } };
    return (await sharp({ create }).png().toBuffer()).toString("base64");
  };
  const out = await stage.page.evaluate(
    async ([drawn, refused]) => {
      const vit = await load({ engine: "simd", dtype: "f32" });
      const data = new Uint8Array(40 * 40 * 4).map((_, i) => [200, 40, 90, 255][i % 4]);
      const right: Float32Array = await vit.embed({ data, width: 40, height: 40 });
      const blob = async (base64: string) => (await fetch(`data:image/png;base64,${base64}`)).blob();
      const vector: Float32Array = await vit.embed(await blob(drawn));
      const error = await failure(vit.embed(await blob(refused)));
      vit.dispose();
      return { off: Math.max(...vector.map((v, i) => Math.abs(v - right[i]))), error };
    },
    [await strip(40_000, 60), await strip(70_000, 2)],
  );
  expect(out.off).toBe(0);
  expect(out.error).toMatchObject({ code: "out-of-memory", ours: true });
  expect(out.error.message).toMatch(/70000×2/);
});

test("a video that breaks off ends its stream with an error", async () => {
  const error = await stage.page.evaluate(async () => {
    const vit = await load({ engine: "simd", dtype: "f32" });
    const video = document.createElement("video");
    const next = failure(vit.stream(video).next());
    video.src = URL.createObjectURL(new Blob(["no video"], { type: "video/webm" }));
    const error = await next;
    vit.dispose();
    return error;
  });
  expect(error).toMatchObject({ code: "bad-input", ours: true });
});

test("what is no address says so, and lists that a framework has wrapped are taken", async () => {
  const out = await stage.page.evaluate(async () => {
    const vit = await load({ engine: "simd", dtype: "f32" });
    const allow = new Proxy(["plums"], {});
    const region = new Proxy({ x: 0, y: 0, width: 9, height: 9 }, {});
    const result = {
      urls: await failure(load({ engineUrls: { "onnxruntime-web": "http://" } })),
      picture: await failure(vit.classify("http://")),
      classes: (await vit.classify(picture(), { allow, region })).classes.length,
    };
    vit.dispose();
    return result;
  });
  expect(out.urls).toMatchObject({ code: "bad-option", ours: true });
  expect(out.picture).toMatchObject({ code: "bad-input", ours: true });
  expect(out.classes).toBe(1);
});

test("a model disposed of while a picture is still loading starts no second worker", async () => {
  const out = await stage.page.evaluate(async () => {
    const vit = await load({ engine: "simd", dtype: "f32" });
    const Original = Worker;
    let started = 0;
    globalThis.Worker = class extends Original {
      constructor(url: string | URL, options?: WorkerOptions) {
        super(url, options);
        started++;
      }
    };
    const image = new Image();
    const loaded = new Promise((resolve) => image.addEventListener("load", resolve));
    const canvas = new OffscreenCanvas(900, 900);
    canvas.getContext("2d");
    image.src = URL.createObjectURL(await canvas.convertToBlob());
    const isLoading = !image.complete;
    const flying = failure(vit.classify(image));
    vit.dispose();
    const { code } = await flying;
    await loaded;
    await new Promise((resolve) => setTimeout(resolve, 1500));
    globalThis.Worker = Original;
    return { isLoading, code, started };
  });
  expect(out).toEqual({ isLoading: true, code: "disposed", started: 0 });
});
