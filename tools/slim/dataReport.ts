/**
 * Describes the data before any work, in a few lines, and splits it into pictures that choose cuts, choose a point, and
 * only measure.
 */
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { openDataset, type Picture, type Split, spellAlike, spread } from "../data/data.ts";
import { openForSharp, readPicture } from "../data/pixels.ts";
import { say } from "../shared/terminal.ts";

export interface SlimData {
  train: Picture[];
  val: Picture[];
  /** used once, at the end; empty where the data has none */
  test: Picture[];
  /** empty for unlabelled data */
  classNames: string[];
  /** remarks on the data, one line each */
  lines: string[];
  /** val was held out of another split here, which the training commands do not know of */
  isHeldOut: boolean;
}

/** Milliseconds that are spent at most on opening pictures to find those that cannot be read. */
const LOOK_MS = 20_000;
/** The most val pictures that are used. More would cost time at each point and change no decision. */
export const VAL_MOST = 1500;
/** With fewer val pictures, an interval is so wide that the choice is a guess. */
const FEW_VAL = 100;
/** Where the data has no val split, one of this many train pictures of a class is held out for it. */
const HELD_OUT = 5;

/**
 * @throws SlimViTError `bad-input` for data without pictures to train or calibrate by, or to measure on
 */
export async function lookAtData(sources: string[], unlabelled: boolean): Promise<SlimData> {
  const parts = { train: await split(sources, "train", unlabelled), val: await split(sources, "val", unlabelled) };
  const test = await split(sources, "test", unlabelled);
  if (!parts.train.length && !parts.val.length)
    throw new SlimViTError(
      "bad-input",
      `${sources.join(", ")}: has no train and no val pictures, which slim chooses by.`,
    );
  spellAlike([...parts.train, ...parts.val, ...test]); // sources can differ
  const lines: string[] = [];
  const isHeldOut = !parts.val.length || !parts.train.length;
  if (isHeldOut) {
    const [from, to] = parts.val.length ? (["val", "train"] as const) : (["train", "val"] as const);
    const all = parts[from];
    parts.val = all.filter((_, k) => k % HELD_OUT === HELD_OUT - 1);
    parts.train = all.filter((_, k) => k % HELD_OUT !== HELD_OUT - 1);
    lines.push(`the data has no ${to} pictures; every fifth of the ${from} pictures is held out for val`);
  }
  if (!parts.val.length)
    throw new SlimViTError("bad-input", `${sources.join(", ")}: has too few pictures to hold some out for val.`);
  const unreadable = await findUnreadable([...parts.val, ...test, ...parts.train]);
  const usable = (pictures: Picture[]) => pictures.filter((picture) => !unreadable.broken.has(picture));
  const [train, allVal] = [usable(parts.train), usable(parts.val)];
  const val = spread(allVal, VAL_MOST);
  const classNames = [...new Set(train.concat(allVal).map(({ className }) => className))].filter(Boolean).sort();
  const data = { train, val, test: usable(test), classNames };
  return {
    ...data,
    isHeldOut,
    lines: [...describeData(data, unlabelled), ...lines, ...unreadable.lines, ...warnings(val, allVal)],
  };
}

async function split(sources: string[], part: Split, unlabelled: boolean): Promise<Picture[]> {
  const found: Picture[] = [];
  for (const source of sources) {
    try {
      found.push(...(await openDataset([source], part, { unlabelled })).pictures);
    } catch (error) {
      // No pictures of this split in this source. What else is wrong with it is an error of "all", too.
      if (!(error instanceof SlimViTError) || error.code !== "bad-input") throw error;
      await openDataset([source], "all", { unlabelled });
    }
  }
  return found;
}

/** "1,817 train, 341 val and 0 test pictures of 10 classes; the smallest class is …" */
export function describeData(data: Omit<SlimData, "lines" | "isHeldOut">, unlabelled: boolean): string[] {
  const { train, val, test, classNames } = data;
  const n = (pictures: Picture[]) => pictures.length.toLocaleString("en");
  const counts = `${n(train)} train, ${n(val)} val and ${test.length ? n(test) : "no"} test pictures`;
  if (unlabelled) return [`data: ${counts}; labels are not looked at`];
  const each = classNames.map((name) => ({ name, count: train.filter(({ className }) => className === name).length }));
  const least = each.reduce((a, b) => (b.count < a.count ? b : a));
  return [
    `data: ${counts} of ${classNames.length} ${classNames.length === 1 ? "class" : "classes"}; ` +
      `the smallest class is "${least.name}" with ${least.count} train ${least.count === 1 ? "picture" : "pictures"}`,
  ];
}

function warnings(val: Picture[], all: Picture[]): string[] {
  if (val.length < all.length)
    return [`the choice is made on ${val.length} of the ${all.length} val pictures, spread over all`];
  if (val.length < FEW_VAL) return [`${val.length} val pictures are few: read the intervals, or add pictures to val`];
  return [];
}

/** Opens pictures until the time is over. */
async function findUnreadable(pictures: Picture[]): Promise<{ broken: Set<Picture>; lines: string[] }> {
  const broken = new Set<Picture>();
  const started = performance.now();
  let [opened, first] = [0, ""];
  for (let k = 0; k < pictures.length && performance.now() - started < LOOK_MS; k += AT_ONCE) {
    const some = pictures.slice(k, k + AT_ONCE);
    opened += some.length;
    await Promise.all(
      some.map((picture) =>
        opens(picture).catch((error) => {
          broken.add(picture);
          first ||= messageOf(error);
        }),
      ),
    );
  }
  const lines: string[] = [];
  if (broken.size) lines.push(`left out: ${broken.size} that cannot be read, such as ${first}`);
  if (opened < pictures.length)
    lines.push(`${opened} of ${pictures.length} pictures were opened to find unreadable ones`);
  return { broken, lines };
}

const AT_ONCE = 8;

async function opens(picture: Picture): Promise<void> {
  const { image } = await openForSharp(await readPicture(picture), picture.name);
  try {
    await image.resize(16, 16, { fit: "fill", kernel: "nearest" }).raw().toBuffer();
  } catch (error) {
    throw new SlimViTError(
      "bad-input",
      `${picture.name}: is no picture that can be read (${messageOf(error).split("\n")[0]}).`,
    );
  }
}

export function sayData({ lines }: SlimData): void {
  for (const line of lines) say(`slim: ${line}`);
}
