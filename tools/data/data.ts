/** Pictures on disk → batches of pixels. A data set is a folder or a zip with one subfolder a class. */
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";
import yauzl from "yauzl";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import type { Label, Preprocess } from "../../src/format/model.ts";
import { checkSize, imageSize, MAX_PIXELS } from "../../src/image/imageSize.ts";
import { preprocess, type RawImage } from "../../src/image/resample.ts";
import { openResampler } from "../../src/image/resampleWasm.ts";
import { type Random, random, shuffled } from "../shared/random.ts";
import { say } from "../shared/terminal.ts";
import { eraseRandom, randAugment } from "../training/augment.ts";
import { SPLITS, type Split } from "./splits.ts";
import { listTree } from "./tree.ts";

export { SPLITS, type Split } from "./splits.ts";

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
/** No picture file is larger; one that is, or a zip entry that claims to be, is refused unread. */
const MAX_PICTURE_BYTES = 256 * 2 ** 20;
/** Pictures are compressed already: a large entry that inflates by more is a bomb, and a batch holds many at once. */
const MAX_INFLATION = 100;
const INFLATION_FREE_BYTES = 2 ** 20;

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

/**
 * @throws SlimViTError `bad-input` naming a folder beside the class folders that has no picture: a class that would be
 *   missing from the data without a word
 */
function requirePictures(source: string, entries: Entry[], files: SourceFile[]): void {
  const parent = (path: string) => path.split("/").slice(0, -1).join("/");
  const classes = new Set(files.map(({ path }) => parent(path)));
  const beside = new Set([...classes].map(parent));
  const holding = new Set(
    [...classes].flatMap((name) => name.split("/").map((_, k, parts) => parts.slice(0, k + 1).join("/"))),
  );
  for (const [path, read] of entries) {
    const hidden = path.split("/").some((part) => part.startsWith(".") || part === "__MACOSX");
    if (read || hidden || !beside.has(parent(path)) || holding.has(path)) continue;
    throw new SlimViTError("bad-input", `${source}: class folder "${path}" holds no picture. Fill it or remove it.`);
  }
}

async function listSource(source: string): Promise<SourceFile[]> {
  const stats = statSync(source, { throwIfNoEntry: false });
  if (!stats) throw new SlimViTError("bad-input", `${source}: no such folder or zip.`);
  const entries = stats.isDirectory() ? listFolder(source) : await listZip(source);
  const files = entries.flatMap(([path, read]) => {
    const folders = path.split("/").slice(0, -1);
    const className = folders.at(-1);
    return read && className && PICTURE.test(path) && !path.includes("__MACOSX/") ? [{ path, className, read }] : [];
  });
  requirePictures(source, entries, files);
  return files;
}

/** A folder has no `read`. */
type Entry = [path: string, read?: () => Promise<Buffer>];

function listFolder(root: string): Entry[] {
  return listTree(root).map(({ path, stats }): Entry => {
    if (stats?.isDirectory()) return [path];
    return [
      path,
      async () => {
        if (!stats?.isFile()) throw new Error("it is no file"); // a pipe would be waited for without end
        if (stats.size > MAX_PICTURE_BYTES) throw new Error(`it has ${stats.size} bytes`);
        return readFileSync(join(root, path));
      },
    ];
  });
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
      const { fileName } = entry;
      if (fileName.endsWith("/")) entries.push([fileName.slice(0, -1)]);
      else entries.push([fileName, () => readEntry(zip, entry)]);
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
    const { uncompressedSize, compressedSize } = entry;
    const limit = Math.min(MAX_PICTURE_BYTES, Math.max(INFLATION_FREE_BYTES, MAX_INFLATION * compressedSize));
    if (uncompressedSize > limit) return reject(new Error(`${compressedSize} bytes inflate to ${uncompressedSize}`));
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

/** `limit` pictures spread evenly over all, so that every class is seen. */
export function spread<T>(items: T[], limit: number): T[] {
  if (limit >= items.length) return items;
  return Array.from({ length: limit }, (_, k) => items[Math.floor((k * items.length) / limit)]);
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
    const { data, info } = await sharp(buffer, { failOn: "error", limitInputPixels: MAX_PIXELS })
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
  return preprocess(await decode(await readPicture(picture), picture.name), how, undefined, await openResampler());
}

/** @throws SlimViTError `bad-input` for one that cannot be read or has too many pixels, before it is decoded */
async function readPicture(picture: Picture): Promise<Buffer> {
  let file: Buffer;
  try {
    file = await picture.read();
  } catch (error) {
    throw new SlimViTError("bad-input", `${picture.name}: cannot be read (${messageOf(error)}).`);
  }
  const size = imageSize(file);
  if (size) checkSize(picture.name, ...size);
  return file;
}

export interface Augmentation {
  /** smallest share of the picture's area that a random crop may take; 1 with `flip` off means the whole picture */
  minScale: number;
  flip: boolean;
  /** magnitude of RandAugment, 0 to 10; 0 is off */
  randaugment?: number;
  /** probability of random erasing */
  erase?: number;
}

/** A random crop by area and aspect ratio (3/4 to 4/3), resized to the model's input, mirrored half of the time, augmented. */
async function trainPixels(
  picture: Picture,
  how: Preprocess,
  augmentation: Augmentation,
  rng: Random,
): Promise<Float32Array> {
  const buffer = await readPicture(picture);
  const [height, width] = how.crop;
  const { randaugment = 0, erase = 0 } = augmentation;
  try {
    const { autoOrient } = await sharp(buffer, { limitInputPixels: MAX_PIXELS }).metadata();
    const box = randomBox(autoOrient.width, autoOrient.height, augmentation.minScale, rng);
    const mirrored = augmentation.flip && rng() < 0.5;
    const { data } = await sharp(buffer, { failOn: "error", limitInputPixels: MAX_PIXELS })
      .rotate()
      .extract(box)
      .resize(width, height, { fit: "fill", kernel: "cubic" })
      .flop(mirrored)
      .toColourspace("srgb")
      .removeAlpha()
      .raw()
      .toBuffer({ resolveWithObject: true });
    const fill = how.mean.map((mean) => 255 * mean);
    const image = { data, width, height };
    const pixels = normalise(randaugment ? randAugment(image, randaugment, rng, fill).data : data, how);
    if (erase) eraseRandom(pixels, height, width, erase, rng);
    return pixels;
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
function normalise(rgb: Uint8Array, { mean, std }: Preprocess): Float32Array {
  const size = rgb.length / 3;
  const pixels = new Float32Array(3 * size);
  for (let c = 0; c < 3; c++) {
    const scale = 1 / (255 * std[c]);
    const shift = -mean[c] / std[c];
    for (let k = 0; k < size; k++) pixels[c * size + k] = rgb[3 * k + c] * scale + shift;
  }
  return pixels;
}

/** What is computed at once: a step's pictures, or a part of them where gradients are accumulated. */
export interface Batch {
  /** [size, 3, height, width] */
  pixels: Float32Array;
  /** 0 when none of its pictures can be read */
  size: number;
  /** index into the model's labels; −1 where unlabelled */
  labels: number[];
  names: string[];
  /** the step is complete with this one */
  last: boolean;
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

export interface BatchOptions {
  batch: number;
  /** batches a step; its pictures are those that one batch of `batch` × `accumulate` would have */
  accumulate?: number;
  /** how often a picture comes in a row, cropped and augmented anew; an epoch sees as many pictures as without */
  repeats?: number;
  seed: number;
  /** steps */
  from: number;
  to: number;
}

/**
 * The batches of the steps `from` to `to`: epoch after epoch in an order and with crops that `seed` fixes.
 * A picture that cannot be read is named, counted and left out.
 */
export async function* trainBatches(data: TrainData, options: BatchOptions): AsyncGenerator<Batch> {
  const { batch, accumulate = 1, repeats = 1, seed, from, to } = options;
  const perStep = batch * accumulate;
  const perEpoch = stepsPerEpoch(data.pictures.length, perStep);
  const broken = new Set<string>();
  const load = async (part: number): Promise<Batch> => {
    const step = Math.floor(part / accumulate);
    const epoch = Math.floor(step / perEpoch);
    const order = epochOrder(data.pictures.length, seed, epoch);
    const first = (step % perEpoch) * perStep + (part % accumulate) * batch;
    const end = Math.min(first + batch, order.length);
    const chosen = Array.from({ length: Math.max(0, end - first) }, (_, n) => first + n);
    const loaded = await Promise.all(
      chosen.map(async (n) => {
        const k = order[Math.floor(n / repeats)];
        const picture = data.pictures[k];
        const rng = n % repeats ? random(seed, epoch, k, n % repeats) : random(seed, epoch, k);
        try {
          return { picture, pixels: await trainPixels(picture, data.preprocess, data.augmentation, rng) };
        } catch (error) {
          if (!broken.has(picture.name)) {
            broken.add(picture.name);
            say(`skipped (${broken.size} so far): ${messageOf(error)}`);
          }
          return undefined;
        }
      }),
    );
    return {
      ...toBatch(
        loaded.filter((item) => item !== undefined),
        data,
      ),
      last: part % accumulate === accumulate - 1,
    };
  };
  const queue: Promise<Batch>[] = [];
  const end = to * accumulate;
  for (let part = from * accumulate; part < end; part++) {
    while (queue.length < Math.min(PREFETCH, end - part)) queue.push(load(part + queue.length));
    const next = await queue.shift()!;
    if (broken.size === data.pictures.length)
      throw new SlimViTError("bad-input", "No picture of the data can be read.");
    yield next;
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

export function toBatch(
  items: { picture: Picture; pixels: Float32Array }[],
  { indices, preprocess: { crop } }: Pick<TrainData, "indices" | "preprocess">,
): Omit<Batch, "last"> {
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
