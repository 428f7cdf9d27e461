/** A picture's pixels are those that a canvas shows, whichever way they are read out. */
import { readFileSync } from "node:fs";
import sharp from "sharp";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openStage, type Stage } from "./page.ts";

let stage: Stage;
beforeAll(async () => {
  stage = await openStage();
});
afterAll(() => stage.close());

test("every orientation, alpha, palette, grey and region give what the canvas gives", async () => {
  const photo = readFileSync(new URL("../../demo/samples/umbrella.jpg", import.meta.url));
  const small = sharp(photo).resize(90, 60);
  const turned = [1, 2, 3, 4, 5, 6, 7, 8].map((orientation) => small.clone().withMetadata({ orientation }).jpeg());
  const others = [
    small.clone().ensureAlpha(0.4).png(),
    small.clone().png({ palette: true, colours: 40 }),
    small.clone().grayscale().jpeg(),
    small.clone().webp(),
  ];
  const files = await Promise.all([...turned, ...others].map((file) => file.toBuffer()));
  const differences = await stage.page.evaluate(
    async (files) => {
      const vit = await load({ engine: "simd", dtype: "f32" });
      const differences: number[] = [];
      for (const base64 of files) {
        const file = await (await fetch(`data:application/octet-stream;base64,${base64}`)).blob();
        const bitmap = await createImageBitmap(file, { premultiplyAlpha: "none" });
        const { width, height } = bitmap;
        const canvas = new OffscreenCanvas(width, height);
        const context = canvas.getContext("2d")!;
        context.drawImage(bitmap, 0, 0);
        const shown = context.getImageData(0, 0, width, height);
        for (const region of [undefined, { x: 11, y: 7, width: width - 20, height: height - 9 }]) {
          const wanted = await vit.embed(shown, { region });
          for (const form of [file, await createImageBitmap(file, { premultiplyAlpha: "none" })]) {
            const vector = await vit.embed(form, { region });
            differences.push(Math.max(...vector.map((v: number, i: number) => Math.abs(v - wanted[i]))));
          }
        }
      }
      vit.dispose();
      return differences;
    },
    files.map((file) => file.toString("base64")),
  );
  expect(differences).toHaveLength(files.length * 4);
  expect(Math.max(...differences)).toBe(0);
});

test("pictures of many sizes that are asked for at once, from two models of one page, are each its own", async () => {
  const differences = await stage.page.evaluate(async () => {
    const vits = [await load({ engine: "simd", dtype: "f32" }), await load({ engine: "simd", dtype: "f16" })];
    const pictures = [900, 40, 300, 41, 640, 899].map((side, k) => {
      const canvas = new OffscreenCanvas(side, side + k);
      const context = canvas.getContext("2d")!;
      context.fillStyle = `hsl(${60 * k} 80% 50%)`;
      context.fillRect(0, 0, side, side + k);
      context.fillStyle = "white";
      context.fillRect(side / 4, 0, side / (k + 2), side);
      return { bitmap: () => createImageBitmap(canvas), shown: context.getImageData(0, 0, side, side + k) };
    });
    const wanted: Float32Array[] = [];
    for (const vit of vits) for (const { shown } of pictures) wanted.push(await vit.embed(shown));
    const asked = vits.flatMap((vit) => pictures.map(async ({ bitmap }) => vit.embed(await bitmap())));
    const got = await Promise.all(asked);
    for (const vit of vits) vit.dispose();
    return got.map((vector, k) => Math.max(...vector.map((v: number, i: number) => Math.abs(v - wanted[k][i]))));
  });
  expect(differences).toHaveLength(12);
  expect(Math.max(...differences)).toBe(0);
});
