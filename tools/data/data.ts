/**
 * Pictures on disk, by class. A data set is a folder, a zip or a tar with one subfolder for each class (in train/, val/
 * and test/ or not), a WebDataset tar, a table of paths and labels, or a folder in Hugging Face's imagefolder form.
 */
import { statSync } from "node:fs";
import { SlimViTError } from "../../src/errors.ts";
import { sayOnce } from "../shared/terminal.ts";
import { comparable } from "./classes.ts";
import type { Listing } from "./entries.ts";
import { listFolder } from "./folder.ts";
import { type Layout, layOut } from "./layout.ts";
import type { Picture } from "./pixels.ts";
import { inSplit, type Split } from "./splits.ts";
import { isTable, listTable, readMetadata } from "./table.ts";
import { listTar } from "./tar.ts";
import { listZip } from "./zip.ts";

export { classOrder, comparable, labelIndices, unknownClass } from "./classes.ts";
export { decode, evalPixels, type Picture } from "./pixels.ts";
export { SPLITS, type Split, spread } from "./splits.ts";

export interface Dataset {
  pictures: Picture[];
  /** sorted by code units, composed (Unicode NFC); empty for flat, unlabelled data */
  classNames: string[];
}

/**
 * @param sources folders, zips, tars or tables
 * @param options.unlabelled classes are not asked for: pictures without one count, too
 * @throws SlimViTError `bad-input` for a source that is missing, is none of these, or has no pictures in that split
 */
export async function openDataset(
  sources: string[],
  split: Split,
  { unlabelled = false }: { unlabelled?: boolean } = {},
): Promise<Dataset> {
  const pictures: Picture[] = [];
  const names = new Set<string>();
  for (const source of sources) {
    const layout = layOut(source, await list(source), unlabelled);
    tell(source, layout);
    const chosen = inSplit(layout.files, split);
    if (chosen.length === 0) throw new SlimViTError("bad-input", `${source}: ${faultOf(layout, split)}`);
    for (const { className } of layout.files) names.add(className);
    for (const { path, className, read } of chosen) pictures.push({ name: `${source}:${path}`, className, read });
  }
  spellAlike(pictures, names);
  const classNames = [...new Set(pictures.map((p) => p.className))].filter((name) => name !== "").sort();
  return { pictures, classNames };
}

/**
 * Gives pictures one spelling of names that the matching of classes does not tell apart, such as "New York" and
 * "New_York". Names that differ in case stay two classes, because they may be two, but hardly ever are.
 *
 * @param names the pictures' and more, such as those of other splits
 */
export function spellAlike(pictures: Picture[], names = new Set(pictures.map(({ className }) => className))): void {
  const spelling = oneSpelling([...names].sort());
  for (const picture of pictures) picture.className = spelling.get(picture.className)!;
}

/** @returns the spelling of each name */
function oneSpelling(names: string[]): Map<string, string> {
  const first = new Map<string, string>();
  const cased = new Map<string, string>();
  for (const name of names) {
    const key = comparable(name);
    const known = first.get(key);
    if (known !== undefined) sayOnce(`the classes "${known}" and "${name}" are taken as one, "${known}"`);
    else first.set(key, name);
    const other = cased.get(key.toLowerCase());
    if (other !== undefined && comparable(other) !== key)
      sayOnce(`the classes "${other}" and "${name}" differ in capital letters alone, and are taken as two`);
    cased.set(key.toLowerCase(), name);
  }
  return new Map(names.map((name) => [name, first.get(comparable(name))!]));
}

function faultOf({ files, leftOut }: Layout, split: Split): string {
  if (files.length) {
    const parts = [...new Set(files.map((file) => file.split))].filter(Boolean).join(", ");
    return `has no pictures in split "${split}"${parts ? `; it has ${parts}` : ""}. Choose another --split.`;
  }
  const why = leftOut.length ? ` (left out: ${leftOut.join("; ")})` : "";
  return `holds no pictures in class subfolders${why}. Expected CLASS/picture.jpg, or train/CLASS/picture.jpg.`;
}

async function list(source: string): Promise<Listing> {
  const stats = statSync(source, { throwIfNoEntry: false });
  if (!stats) throw new SlimViTError("bad-input", `${source}: no such folder, zip, tar or table.`);
  if (!stats.isDirectory()) {
    if (/\.(tar\.gz|tgz|tar\.bz2|tar\.xz|tar\.zst)$/i.test(source))
      throw new SlimViTError(
        "bad-input",
        `${source}: is a compressed tar, which cannot be read picture by picture. Unpack it once ("gunzip"), or give the folder.`,
      );
    if (/\.tar$/i.test(source)) return listTar(source);
    if (isTable(source)) return listTable(source);
  }
  const entries = stats.isDirectory() ? listFolder(source) : await listZip(source);
  const annotations = await readMetadata(source, entries);
  return annotations ? { entries, annotations, annotatedBy: "its metadata file" } : { entries };
}

function tell(source: string, { leftOut, notes }: Layout): void {
  for (const line of notes) sayOnce(`${source}: ${line}`);
  if (leftOut.length) sayOnce(`${source}: left out: ${leftOut.join("; ")}`);
}
