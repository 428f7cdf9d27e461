/**
 * The attention of the class token (or without one, the mean over all tokens), block by block, in several models on the
 * same pictures, as one HTML fragment.
 */
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import sharp from "sharp";
import { openEngine } from "../../src/engines/auto.ts";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { type Head, type Label, type Model, patchGrid } from "../../src/format/model.ts";
import { preprocess } from "../../src/image/resample.ts";
import { attentionOverPatches } from "../../src/reference/insight.ts";
import { SCORE } from "../../src/reference/scores.ts";
import { decode } from "../data/data.ts";
import { readModelFolder } from "../models/folders.ts";
import { percent } from "../shared/terminal.ts";
import { escaped } from "./html.ts";

/** One model's answer to one picture. */
export interface Looked {
  /** the picture as the model sees it, a JPEG */
  seen: Buffer;
  /** the best class and its score; none of an embedding model */
  best?: { label: string; score: number };
  /** for each block, attention over `keepIdx`; empty without heads */
  attention: Float32Array[];
}

/**
 * @returns for each picture, each model's answer
 * @throws SlimViTError `bad-input` for a picture that cannot be read
 */
export async function lookAt(models: Model[], files: string[]): Promise<Looked[][]> {
  const pictures = await Promise.all(files.map(async (file) => decode(readPicture(file), file)));
  const looked: Looked[][] = files.map(() => []);
  for (const model of models) {
    const { preprocess: how, labels, head } = model.manifest;
    const { engine } = await openEngine("simd", model);
    try {
      for (const [k, picture] of pictures.entries()) {
        const pixels = preprocess(picture, how);
        const { logits, attention, groups } = await engine.run(pixels, { explain: true });
        const maps = groups ? attentionOverPatches(model.manifest, attention!, groups) : attention!;
        const best = head && bestOf(logits, labels, head.scores);
        looked[k].push({ seen: await toJpeg(pixels, model), ...(best && { best }), attention: maps });
      }
    } finally {
      engine.dispose();
    }
  }
  return looked;
}

function bestOf(logits: Float32Array, labels: Label[], scores: Head["scores"]): Looked["best"] {
  const best = logits.reduce((top, v, i) => (v > logits[top] ? i : top), 0);
  return { label: labels[best].label, score: SCORE[scores](logits)[best] };
}

function readPicture(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    throw new SlimViTError("bad-input", `${file}: cannot be read (${messageOf(error)}).`);
  }
}

/** Turns normalised pixels back into a picture: exactly the part that the model saw. */
function toJpeg(pixels: Float32Array, { manifest }: Model): Promise<Buffer> {
  const { crop, mean, std } = manifest.preprocess;
  const [height, width] = crop;
  const area = height * width;
  const data = Uint8ClampedArray.from({ length: 3 * area }, (_, i) => {
    const c = i % 3;
    return 255 * (pixels[c * area + Math.floor(i / 3)] * std[c] + mean[c]);
  });
  return sharp(data, { raw: { width, height, channels: 3 } })
    .jpeg()
    .toBuffer();
}

/** Attention maps of all models under one another, for each of the pictures. */
export async function attentionHtml(sources: string[], files: string[]): Promise<string> {
  const models = sources.map((source) => readModelFolder(source));
  const looked = await lookAt(models, files);
  const parts = await Promise.all(
    files.map(async (file, k) => {
      const rows = await Promise.all(models.map((model, m) => modelRow(model, looked[k][m])));
      return `<h3>${escaped(basename(file))}</h3>\n${rows.join("\n")}`;
    }),
  );
  return `<style>${STYLE}</style>
<h2>Where the class token looks</h2>
<p>Attention of the class token in each block, averaged over the block's heads: the brighter, the more; each map by its own
largest value. Grey patches are gone. Patches that have merged share their attention. In a model without a class token it is
the mean of all tokens' attention.</p>
${parts.join("\n")}`;
}

const STYLE = `
.looks { display: flex; flex-wrap: wrap; gap: 6px; margin: .3rem 0 1rem; }
.looks figcaption { font-size: .75rem; text-align: center; }
.looks .map { width: 124px; background-size: 100% 100%; background-image: var(--seen); }
.looks .map img { display: block; width: 100%; height: 100%; image-rendering: pixelated; }
`;

async function modelRow({ manifest }: Model, { seen, best, attention }: Looked): Promise<string> {
  const [rows, columns] = patchGrid(manifest);
  const maps = await Promise.all(
    attention.map(async (weights, i) => {
      const { keepIdx } = manifest.blocks[i];
      if (weights.length === 0) return figure(`block ${i}: no head`, "");
      const shade = attentionShade(weights, keepIdx, manifest.prefixTokens, rows * columns);
      const png = await sharp(shade, { raw: { width: columns, height: rows, channels: 4 } })
        .png()
        .toBuffer();
      const title = `block ${i}: ${keepIdx.length - manifest.prefixTokens} patches`;
      return figure(title, `<img alt="${title}" src="data:image/png;base64,${png.toString("base64")}">`);
    }),
  );
  const shape = `aspect-ratio: ${columns} / ${rows}`;
  return `<div>${escaped(manifest.name)}${best ? `: ${escaped(best.label)}, ${percent(best.score)}` : ""}</div>
<div class="looks" style="--seen: url(data:image/jpeg;base64,${seen.toString("base64")})">
${[figure("as the model sees it", ""), ...maps].join("\n").replaceAll('class="map"', `class="map" style="${shape}"`)}
</div>`;
}

function figure(caption: string, content: string): string {
  return `<figure><div class="map">${content}</div><figcaption>${caption}</figcaption></figure>`;
}

const DARKEST = 0.85;

/**
 * The overlay of the picture, one RGBA pixel a patch: black, and the more transparent the more attention the patch
 * gets. A patch that was dropped is grey.
 */
export function attentionShade(
  weights: Float32Array,
  keepIdx: number[],
  prefixTokens: number,
  patches: number,
): Uint8ClampedArray {
  const shade = new Uint8ClampedArray(4 * patches);
  for (let patch = 0; patch < patches; patch++) shade.set([128, 128, 128, 255], 4 * patch);
  const most = weights.reduce((max, v, k) => (keepIdx[k] < prefixTokens ? max : Math.max(max, v)), 0);
  keepIdx.forEach((token, k) => {
    if (token < prefixTokens) return;
    const share = most > 0 ? weights[k] / most : 0;
    shade.set([0, 0, 0, 255 * DARKEST * (1 - share)], 4 * (token - prefixTokens));
  });
  return shade;
}
