/** What the page's thread does with a picture: nothing that reads its pixels. What is not bytes already crosses as a bitmap. */
import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openStage, type Stage } from "./page.ts";

let stage: Stage;
beforeAll(async () => {
  stage = await openStage();
  const picture = fileURLToPath(new URL("../../demo/samples/umbrella.jpg", import.meta.url));
  copyFileSync(picture, join(stage.models, "umbrella.jpg"));
});
afterAll(() => stage?.close());

test("no form of a picture has its pixels read, drawn or decoded on the page's thread", async () => {
  const { calls, control } = await stage.page.evaluate(async () => {
    let seen: string[] = [];
    // biome-ignore lint/suspicious/noExplicitAny: methods of many classes
    const watch = (owner: any, ...methods: string[]) => {
      for (const method of methods) {
        const original = owner[method];
        owner[method] = function (...args: unknown[]) {
          seen.push(method);
          return original.apply(this, args);
        };
      }
    };
    const vit = await load({ engine: "simd", dtype: "f32" });
    const url = "/models/umbrella.jpg";
    const blob = await (await fetch(url)).blob();
    const image = new Image();
    image.src = url;
    await image.decode();
    const bitmap = await createImageBitmap(blob);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
    const context = canvas.getContext("2d")!;
    context.drawImage(bitmap, 0, 0);
    const imageData = context.getImageData(0, 0, bitmap.width, bitmap.height);
    const offscreen = new OffscreenCanvas(bitmap.width, bitmap.height);
    offscreen.getContext("2d")!.drawImage(bitmap, 0, 0);
    const frame = new VideoFrame(offscreen, { timestamp: 0 });
    const video = document.createElement("video");
    video.srcObject = canvas.captureStream();
    await video.play();

    for (const context of [CanvasRenderingContext2D, OffscreenCanvasRenderingContext2D])
      watch(context.prototype, "getImageData", "putImageData", "drawImage");
    for (const context of [WebGLRenderingContext, WebGL2RenderingContext]) watch(context.prototype, "readPixels");
    watch(HTMLCanvasElement.prototype, "toBlob", "toDataURL");
    watch(OffscreenCanvas.prototype, "convertToBlob", "transferToImageBitmap");
    watch(VideoFrame.prototype, "copyTo");
    watch(HTMLImageElement.prototype, "decode");
    watch(Blob.prototype, "arrayBuffer", "stream", "text");
    watch(globalThis, "fetch", "createImageBitmap");
    const { postMessage } = Worker.prototype;
    Worker.prototype.postMessage = function (message: unknown, transfer: unknown) {
      if (Array.isArray(transfer)) seen.push(...transfer.map((one) => `hands over ${one.constructor.name}`));
      return postMessage.call(this, message, transfer as StructuredSerializeOptions);
    };

    const raw = { data: imageData.data, width: imageData.width, height: imageData.height };
    const forms = { url, blob, raw, image, canvas, offscreen, bitmap, imageData, frame, video };
    const calls: Record<string, string[]> = {};
    for (const [name, form] of Object.entries(forms)) {
      seen = [];
      await vit.classify(form);
      calls[name] = seen.filter((call) => call !== "hands over MessagePort");
    }
    seen = [];
    offscreen.getContext("2d")!.getImageData(0, 0, 1, 1);
    await frame.copyTo(new Uint8Array(frame.allocationSize()));
    const control = seen;
    frame.close();
    vit.dispose();
    return { calls, control };
  });
  expect(control).toEqual(["getImageData", "copyTo"]); // they would be seen
  const { url, blob, raw, imageData, ...drawn } = calls;
  expect({ url, blob }).toEqual({ url: [], blob: [] }); // fetched and decoded in the worker
  for (const bytes of [raw, imageData]) expect(bytes).toEqual(["hands over ArrayBuffer"]); // a copy of the caller's
  expect(Object.keys(drawn)).toHaveLength(6);
  for (const [form, made] of Object.entries(drawn)) {
    expect([form, made]).toEqual([form, ["createImageBitmap", "hands over ImageBitmap"]]);
  }
});
