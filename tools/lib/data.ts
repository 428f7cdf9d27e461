/** Pictures on disk → batches of pixels. A data set is a folder or a zip with one subfolder a class. */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join, sep } from "node:path";
import sharp from "sharp";
import yauzl from "yauzl";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import type { Label, Preprocess } from "../../src/format/model.ts";
import { preprocess, type RawImage } from "../../src/image.ts";
import { type Random, random, shuffled } from "./random.ts";
import { say } from "./terminal.ts";

export type Split = "train" | "val" | "test" | "all";
export const SPLITS: Split[] = ["train", "val", "test", "all"];

/** One picture, not yet read. */
export interface Picture {
  /** data set and path within, for messages */
  name: string;
  className: string;
  read: () => Promise<Buffer>;
}

export interface Dataset {
  pictures: Picture[];
  /** sorted */
  classNames: string[];
}

const PICTURE = /\.(jpe?g|png|webp|gif|tiff?|avif|bmp)$/i;
/** No picture file is larger; a zip entry that claims to be is refused unread. */
const MAX_PICTURE_BYTES = 256 * 2 ** 20;

/**
 * @param sources folders or zips
 * @throws SlimViTError `bad-input` for a source that is missing, is neither, or has no pictures in that split
 */
export async function openDataset(sources: string[], split: Split): Promise<Dataset> {
  const pictures: Picture[] = [];
  for (const source of sources) {
    const files = await listSource(source);
    const chosen = inSplit(files, split);
    if (chosen.length === 0) {
      const fault = files.length ? `has no pictures in split "${split}"` : "holds no pictures in class subfolders";
      throw new SlimViTError(
        "bad-input",
        `${source}: ${fault}. Expected CLASS/picture.jpg, or train/CLASS/picture.jpg.`,
      );
    }
    for (const { path, className, read } of chosen) pictures.push({ name: `${source}:${path}`, className, read });
  }
  return { pictures, classNames: [...new Set(pictures.map((p) => p.className))].sort() };
}

interface SourceFile {
  path: string;
  className: string;
  read: () => Promise<Buffer>;
}

async function listSource(source: string): Promise<SourceFile[]> {
  const stats = statSync(source, { throwIfNoEntry: false });
  if (!stats) throw new SlimViTError("bad-input", `${source}: no such folder or zip.`);
  const entries = stats.isDirectory() ? listFolder(source) : await listZip(source);
  return entries.flatMap(([path, read]) => {
    const folders = path.split("/").slice(0, -1);
    const className = folders.at(-1);
    return className && PICTURE.test(path) && !path.includes("__MACOSX/") ? [{ path, className, read }] : [];
  });
}

type Entry = [path: string, read: () => Promise<Buffer>];

function listFolder(root: string): Entry[] {
  return (readdirSync(root, { recursive: true }) as string[])
    .map((path) => path.split(sep).join("/"))
    .map((path) => [path, async () => readFileSync(join(root, path))]);
}

async function listZip(file: string): Promise<Entry[]> {
  // The descriptor stays open for the process's life: pictures are read again every epoch.
  const zip = await new Promise<yauzl.ZipFile>((resolve, reject) => {
    yauzl.open(file, { lazyEntries: true, autoClose: false }, (error, zip) => {
      if (error)
        reject(new SlimViTError("bad-input", `${file}: is neither a folder nor a readable zip (${error.message}).`));
      else resolve(zip);
    });
  });
  const entries: Entry[] = [];
  await new Promise<void>((resolve, reject) => {
    zip.on("entry", (entry: yauzl.Entry) => {
      if (!entry.fileName.endsWith("/")) entries.push([entry.fileName, () => readEntry(zip, entry)]);
      zip.readEntry();
    });
    zip.on("end", resolve);
    zip.on("error", (error: Error) =>
      reject(new SlimViTError("bad-input", `${file}: is a broken zip (${error.message}).`)),
    );
    zip.readEntry();
  });
  return entries;
}

function readEntry(zip: yauzl.ZipFile, entry: yauzl.Entry): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    if (entry.uncompressedSize > MAX_PICTURE_BYTES) return reject(new Error(`claims ${entry.uncompressedSize} bytes`));
    zip.openReadStream(entry, (error, stream) => {
      if (error) return reject(error);
      const chunks: Buffer[] = [];
      stream.on("data", (chunk: Buffer) => chunks.push(chunk));
      stream.on("end", () => resolve(Buffer.concat(chunks)));
      stream.on("error", reject);
    });
  });
}

/**
 * Data with train/, val/ and test/ folders is split by them. Other data by position: with each class's file names
 * sorted, every fifth from the fifth on is test, every fifth from the fourth on validation, the rest train.
 */
function inSplit(files: SourceFile[], split: Split): SourceFile[] {
  const folderOf = ({ path }: SourceFile) =>
    path
      .split("/")
      .slice(0, -2)
      .map((folder) => (folder === "valid" ? "val" : folder));
  const byFolder = files.filter((file) => folderOf(file).some((folder) => (SPLITS as string[]).includes(folder)));
  const sorted = [...files].sort((a, b) => (a.path < b.path ? -1 : 1));
  if (split === "all") return sorted;
  if (byFolder.length) return sorted.filter((file) => folderOf(file).includes(split));
  const position = new Map<string, number>();
  return sorted.filter(({ className }) => {
    const k = position.get(className) ?? 0;
    position.set(className, k + 1);
    return (k % 5 === 4 ? "test" : k % 5 === 3 ? "val" : "train") === split;
  });
}

/**
 * The model's output index of each class folder, found by the labels' ids, else by their text.
 * @throws SlimViTError `bad-input` naming a class that the model does not know
 */
export function labelIndices(classNames: string[], labels: Label[]): Map<string, number> {
  const byId = new Map(labels.map(({ id }, index) => [id, index]));
  const byText = new Map(labels.map(({ label }, index) => [label, index]));
  return new Map(
    classNames.map((name) => {
      const index = byId.get(name) ?? byText.get(name);
      if (index === undefined) {
        throw new SlimViTError(
          "bad-input",
          `Class folder "${name}" is none of the model's ${labels.length} labels (the first is "${labels[0].id}"). ` +
            "Use data of the model's own classes, finetune first, or --unlabelled for distillation alone.",
        );
      }
      return [name, index];
    }),
  );
}

/**
 * @returns RGBA as decoded, turned upright by its EXIF orientation
 * @throws SlimViTError `bad-input` naming the picture
 */
export async function decode(buffer: Buffer, name: string): Promise<RawImage> {
  try {
    const { data, info } = await sharp(buffer, { failOn: "error" })
      .rotate()
      .toColourspace("srgb")
      .ensureAlpha()
      .raw()
      .toBuffer({ resolveWithObject: true });
    return { data, width: info.width, height: info.height };
  } catch (error) {
    throw new SlimViTError(
      "bad-input",
      `${name}: is no picture that can be read (${messageOf(error).split("\n")[0]}).`,
    );
  }
}

/** The picture as the model sees it at inference: [3, height, width]. */
export async function evalPixels(picture: Picture, how: Preprocess): Promise<Float32Array> {
  return preprocess(await decode(await readPicture(picture), picture.name), how);
}

async function readPicture(picture: Picture): Promise<Buffer> {
  try {
    return await picture.read();
  } catch (error) {
    throw new SlimViTError("bad-input", `${picture.name}: cannot be read (${messageOf(error)}).`);
  }
}

export interface Augmentation {
  /** smallest share of the picture's area that a random crop may take; 1 with `flip` off means the whole picture */
  minScale: number;
  flip: boolean;
}

/** A random crop by area and aspect ratio (3/4 to 4/3), resized to the model's input, mirrored half of the time. */
async function trainPixels(
  picture: Picture,
  how: Preprocess,
  augmentation: Augmentation,
  rng: Random,
): Promise<Float32Array> {
  const buffer = await readPicture(picture);
  const [height, width] = how.crop;
  try {
    const { autoOrient } = await sharp(buffer).metadata();
    const box = randomBox(autoOrient.width, autoOrient.height, augmentation.minScale, rng);
    const mirrored = augmentation.flip && rng() < 0.5;
    const { data } = await sharp(buffer, { failOn: "error" })
      .rotate()
      .extract(box)
      .resize(width, height, { fit: "fill", kernel: "cubic" })
      .flop(mirrored)
      .toColourspace("srgb")
      .removeAlpha()
      .raw()
      .toBuffer({ resolveWithObject: true });
    return normalise(data, how);
  } catch (error) {
    throw new SlimViTError(
      "bad-input",
      `${picture.name}: is no picture that can be read (${messageOf(error).split("\n")[0]}).`,
    );
  }
}

function randomBox(width: number, height: number, minScale: number, rng: Random) {
  for (let attempt = 0; attempt < 10; attempt++) {
    const area = width * height * (minScale + (1 - minScale) * rng());
    const ratio = Math.exp(Math.log(3 / 4) + rng() * 2 * Math.log(4 / 3));
    const w = Math.round(Math.sqrt(area * ratio));
    const h = Math.round(Math.sqrt(area / ratio));
    if (w >= 1 && h >= 1 && w <= width && h <= height) {
      return {
        left: Math.floor(rng() * (width - w + 1)),
        top: Math.floor(rng() * (height - h + 1)),
        width: w,
        height: h,
      };
    }
  }
  const side = Math.min(width, height);
  return { left: (width - side) >> 1, top: (height - side) >> 1, width: side, height: side };
}

/** Interleaved RGB bytes → [3, height, width] */
function normalise(rgb: Buffer, { mean, std }: Preprocess): Float32Array {
  const size = rgb.length / 3;
  const pixels = new Float32Array(3 * size);
  for (let c = 0; c < 3; c++) {
    const scale = 1 / (255 * std[c]);
    const shift = -mean[c] / std[c];
    for (let k = 0; k < size; k++) pixels[c * size + k] = rgb[3 * k + c] * scale + shift;
  }
  return pixels;
}

export interface Batch {
  /** [size, 3, height, width] */
  pixels: Float32Array;
  size: number;
  /** index into the model's labels; −1 where unlabelled */
  labels: number[];
  names: string[];
}

export interface TrainData {
  pictures: Picture[];
  /** the model's output index by class folder; none for unlabelled data */
  indices?: Map<string, number>;
  preprocess: Preprocess;
  augmentation: Augmentation;
}

/** Batches decoded ahead, so that training does not wait for pictures. */
const PREFETCH = 3;

/**
 * Training batches from step `from` on, for ever: epoch after epoch in an order and with crops that `seed` fixes.
 * A picture that cannot be read is named, counted and left out.
 */
export async function* trainBatches(
  data: TrainData,
  { batch, seed, from, to }: { batch: number; seed: number; from: number; to: number },
): AsyncGenerator<Batch> {
  const perEpoch = stepsPerEpoch(data.pictures.length, batch);
  const broken = new Set<string>();
  const load = async (step: number): Promise<Batch> => {
    const epoch = Math.floor(step / perEpoch);
    const order = epochOrder(data.pictures.length, seed, epoch);
    const chosen = order.slice((step % perEpoch) * batch, (step % perEpoch) * batch + batch);
    const loaded = await Promise.all(
      chosen.map(async (k) => {
        const picture = data.pictures[k];
        try {
          return {
            picture,
            pixels: await trainPixels(picture, data.preprocess, data.augmentation, random(seed, epoch, k)),
          };
        } catch (error) {
          if (!broken.has(picture.name)) {
            broken.add(picture.name);
            say(`skipped (${broken.size} so far): ${messageOf(error)}`);
          }
          return undefined;
        }
      }),
    );
    return toBatch(
      loaded.filter((item) => item !== undefined),
      data,
    );
  };
  const queue: Promise<Batch>[] = [];
  for (let step = from; step < to; step++) {
    while (queue.length < Math.min(PREFETCH, to - step)) queue.push(load(step + queue.length));
    const next = await queue.shift()!;
    if (broken.size === data.pictures.length)
      throw new SlimViTError("bad-input", "No picture of the data can be read.");
    if (next.size) yield next;
  }
}

export const stepsPerEpoch = (pictures: number, batch: number) => Math.max(1, Math.floor(pictures / batch));

const orders = new Map<string, number[]>();
function epochOrder(length: number, seed: number, epoch: number): number[] {
  const key = `${length} ${seed} ${epoch}`;
  if (!orders.has(key)) {
    if (orders.size > 4) orders.clear();
    orders.set(
      key,
      shuffled(
        Array.from({ length }, (_, k) => k),
        random(seed, epoch),
      ),
    );
  }
  return orders.get(key)!;
}

function toBatch(
  items: { picture: Picture; pixels: Float32Array }[],
  { indices, preprocess: { crop } }: TrainData,
): Batch {
  const each = 3 * crop[0] * crop[1];
  const pixels = new Float32Array(items.length * each);
  items.forEach((item, k) => {
    pixels.set(item.pixels, k * each);
  });
  return {
    pixels,
    size: items.length,
    labels: items.map(({ picture }) => indices?.get(picture.className) ?? -1),
    names: items.map(({ picture }) => picture.name),
  };
}
