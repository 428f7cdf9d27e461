/** `slimvit eval --engine webnn`: runs the model in a Chromium with WebNN, which Node does not have. */
import { resolve } from "node:path";
import type { Model } from "../../src/format/model.ts";
import type { SlimViT } from "../../src/index.ts";
import { decode } from "../data/data.ts";
import { splitSource } from "../models/folders.ts";
import { openPage } from "../shared/browser.ts";
import { runtimeFolder } from "../shared/runtime.ts";
import type { Outputs, Viewer } from "./viewer.ts";

/** The least that a logarithm is taken of. */
const LEAST = 1e-30;

/**
 * @param withFeatures else only the classes are asked for
 * @throws SlimViTError `unsupported` without that Chromium
 */
export async function openInBrowser(source: string, model: Model, withFeatures: boolean): Promise<Viewer> {
  const { manifest, dtype } = model;
  const { dir } = splitSource(source);
  const mounts = { "/dist": runtimeFolder(), "/model": resolve(dir) };
  const { page, close } = await openPage(mounts, true, [], () => {}, [], true);
  try {
    await page.evaluate(load, { dtype, variant: manifest.variant });
  } catch (error) {
    await close();
    throw error;
  }
  const wanted = { classes: manifest.head ? manifest.labels.length : 0, withFeatures };
  return {
    engine: "webnn",
    async prepare(picture) {
      const { data, width, height } = await decode(await picture.read(), picture.name);
      const image = { rgba: Buffer.from(data).toString("base64"), width, height, ...wanted };
      return async (): Promise<Outputs> => {
        const { scores, features } = await page.evaluate(look, image);
        const isSigmoid = manifest.head?.scores === "sigmoid";
        const logit = (p: number) => Math.log(Math.max(p, LEAST)) - (isSigmoid ? Math.log(Math.max(1 - p, LEAST)) : 0);
        return { logits: Float32Array.from(scores, logit), features: Float32Array.from(features) };
      };
    },
    close,
  };
}

/** Runs in the page. */
async function load({ dtype, variant }: { dtype: Model["dtype"]; variant: string }): Promise<void> {
  const code = "/dist/index.js";
  const { SlimViT } = await import(/* @vite-ignore */ code);
  const vit: SlimViT = await SlimViT.load("/model/", { engine: "webnn", dtype, variant, cache: false });
  if (vit.info.engine !== "webnn") throw new Error(`webnn does not run here: ${vit.info.notes.join(" ")}`);
  Object.assign(globalThis, { vit });
}

/** Runs in the page: all scores by class, and the features where they are wanted. */
async function look(image: { rgba: string; width: number; height: number; classes: number; withFeatures: boolean }) {
  const { vit } = globalThis as unknown as { vit: SlimViT };
  const bytes = Uint8ClampedArray.from(atob(image.rgba), (char) => char.charCodeAt(0));
  const picture = { data: bytes, width: image.width, height: image.height };
  const scores: number[] = [];
  if (image.classes) {
    const { classes } = await vit.classify(picture, { topK: image.classes });
    for (const { index, score } of classes) scores[index] = score;
  }
  return { scores, features: image.withFeatures ? [...(await vit.embed(picture))] : [] };
}
