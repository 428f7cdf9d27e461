/**
 * The files of a tar, read one by one. A WebDataset shard is a tar in which the files of a sample share a name. There,
 * "003.cls" or the `label` of "003.json" is the class of the picture "003.jpg".
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { posix } from "node:path";
import { SlimViTError } from "../../src/errors.ts";
import {
  type Annotation,
  cleanPath,
  type Entry,
  extensionOf,
  isLitter,
  isPicture,
  type Listing,
  MAX_PICTURE_BYTES,
} from "./entries.ts";
import { readMetadata } from "./table.ts";

const BLOCK = 512;
/** The largest size of a long name or of pax records. */
const MAX_NAME_BYTES = 2 ** 16;
/** The largest size of a file that gives the class of the picture beside it. */
const MAX_LABEL_BYTES = 2 ** 20;

/** @throws SlimViTError `bad-input` for a file that is no tar, or one that is cut off */
export async function listTar(file: string): Promise<Listing> {
  const entries = readHeaders(file);
  const labels = await sampleLabels(file, entries);
  if (labels.size) return { entries, annotations: labels, annotatedBy: ".cls or .json files" };
  const annotations = await readMetadata(file, entries);
  return annotations ? { entries, annotations, annotatedBy: "its metadata file" } : { entries };
}

function readHeaders(file: string): Entry[] {
  const descriptor = openSync(file, "r");
  const broken = (why: string) => new SlimViTError("bad-input", `${file}: is a broken tar (${why}).`);
  // By path: of a file that was added to the tar again, the last one counts, as when it is unpacked.
  const entries = new Map<string, Entry>();
  const links = new Map<string, string>();
  try {
    const { size: fileSize } = fstatSync(descriptor);
    const bytes = (at: number, length: number) => {
      if (at + length > fileSize) throw broken("it is cut off");
      const buffer = Buffer.alloc(length);
      readSync(descriptor, buffer, 0, length, at);
      return buffer;
    };
    let longName: string | undefined;
    let longLink: string | undefined;
    for (let at = 0; at + BLOCK <= fileSize; ) {
      const header = bytes(at, BLOCK);
      if (header.every((byte) => byte === 0)) break;
      if (!hasValidChecksum(header)) throw broken(`no header at byte ${at}`);
      const size = numberOf(header.subarray(124, 136));
      if (!Number.isSafeInteger(size) || size < 0) throw broken(`a size of ${size} at byte ${at}`);
      const start = at + BLOCK;
      if (start + size > fileSize) throw broken("it is cut off");
      at = start + Math.ceil(size / BLOCK) * BLOCK;
      const kind = String.fromCharCode(header[156]);
      if (kind === "L" || kind === "K" || kind === "x") {
        if (size > MAX_NAME_BYTES) throw broken(`a name of ${size} bytes`);
        const text = bytes(start, size);
        longName = (kind === "L" ? textOf(text) : kind === "x" ? paxValue(text, "path") : undefined) ?? longName;
        longLink = (kind === "K" ? textOf(text) : kind === "x" ? paxValue(text, "linkpath") : undefined) ?? longLink;
        continue;
      }
      const path = cleanPath(longName ?? plainName(header));
      const link = longLink ?? textOf(header.subarray(157, 257));
      longName = longLink = undefined;
      if (path === "" || path.split("/").includes("..")) continue;
      links.delete(path);
      if (kind === "5") entries.set(path, { path });
      else if (kind === "0" || kind === "\0" || kind === "7")
        entries.set(path, { path, read: async () => readPart(file, start, size) });
      else if (kind === "1" || kind === "2") {
        // A hard link names its file from the tar's root, a symbolic one from its own folder.
        const target = cleanPath(posix.normalize(kind === "1" ? link : `${posix.dirname(path)}/${link}`));
        entries.set(path, { path, read: () => readLinked(entries, links, path) });
        links.set(path, target);
      }
    }
  } finally {
    closeSync(descriptor);
  }
  return [...entries.values()];
}

/** @param links the target of each link, by its path */
async function readLinked(entries: Map<string, Entry>, links: Map<string, string>, path: string): Promise<Buffer> {
  const seen = new Set<string>();
  let at = path;
  for (let target = links.get(at); target !== undefined; target = links.get(at)) {
    if (seen.has(target)) throw new Error("it is a link in a circle");
    seen.add(target);
    at = target;
  }
  const read = entries.get(at)?.read;
  if (!read) throw new Error(`it is a link to ${at}, which is not in the tar`);
  return read();
}

const textOf = (bytes: Uint8Array): string => {
  const end = bytes.indexOf(0);
  return Buffer.from(end < 0 ? bytes : bytes.subarray(0, end)).toString("utf8");
};

/** ustar's name with its prefix. */
function plainName(header: Buffer): string {
  const isUstar = header.toString("latin1", 257, 262) === "ustar";
  const prefix = isUstar ? textOf(header.subarray(345, 500)) : "";
  const name = textOf(header.subarray(0, 100));
  return prefix ? `${prefix}/${name}` : name;
}

/** A record is "LENGTH key=value\n", where LENGTH counts the whole record. */
function paxValue(records: Buffer, wanted: string): string | undefined {
  for (let at = 0; at < records.length; ) {
    const length = Number.parseInt(records.toString("latin1", at, at + 10), 10);
    if (!(length > 0)) return undefined;
    const [, key, value] = records.toString("utf8", at, at + length).match(/^\d+ ([^=]+)=(.*)\n$/s) ?? [];
    if (key === wanted) return value;
    at += length;
  }
  return undefined;
}

/** Octal digits, or, with the first bit set, a big-endian number. */
function numberOf(field: Buffer): number {
  if (field[0] & 0x80) return field.subarray(1).reduce((sum, byte) => sum * 256 + byte, field[0] & 0x7f);
  return Number.parseInt(textOf(field).trim() || "0", 8);
}

/** The sum of the header's bytes, with spaces in the sum's own place. */
function hasValidChecksum(header: Buffer): boolean {
  const sum = header.reduce((total, byte, k) => total + (k >= 148 && k < 156 ? 32 : byte), 0);
  return sum === numberOf(header.subarray(148, 156));
}

function readPart(file: string, start: number, size: number): Buffer {
  if (size > MAX_PICTURE_BYTES) throw new Error(`it has ${size} bytes`);
  const descriptor = openSync(file, "r");
  try {
    const buffer = Buffer.alloc(size);
    readSync(descriptor, buffer, 0, size, start);
    return buffer;
  } finally {
    closeSync(descriptor);
  }
}

/** WebDataset's: up to the first dot of the file's name, folders included. */
const sampleOf = (path: string) => path.match(/^((?:.*\/)?[^/.]+)/)?.[1] ?? path;

async function sampleLabels(file: string, entries: Entry[]): Promise<Map<string, Annotation>> {
  // A sample's .cls comes before its .json, which often holds the same class in another form.
  const classes: Record<string, Map<string, string>> = { ".cls": new Map(), ".json": new Map() };
  for (const { path, read } of entries) {
    const extension = extensionOf(path);
    if (!read || !classes[extension] || isLitter(path)) continue;
    const bytes = await read();
    if (bytes.length > MAX_LABEL_BYTES) continue;
    const text = bytes.toString("utf8").trim();
    const name = (extension === ".cls" ? text : labelIn(text, `${file}:${path}`))?.normalize("NFC");
    if (!name) continue;
    const sample = sampleOf(path);
    const known = classes[extension].get(sample) ?? name;
    if (known !== name)
      throw new SlimViTError(
        "bad-input",
        `${file}: the sample "${sample}" has two classes, "${known}" and "${name}". A sample's name ends at the first dot.`,
      );
    classes[extension].set(sample, name);
  }
  const classOf = (sample: string) => classes[".cls"].get(sample) ?? classes[".json"].get(sample);
  const annotations = new Map<string, Annotation>();
  if (classes[".cls"].size || classes[".json"].size)
    for (const { path } of entries)
      if (isPicture(path) && !isLitter(path)) annotations.set(path, { className: classOf(sampleOf(path)) });
  return annotations;
}

function labelIn(text: string, name: string): string | undefined {
  try {
    const found = JSON.parse(text) as Record<string, unknown> | null;
    const label = found?.label ?? found?.class ?? found?.cls;
    return typeof label === "string" || typeof label === "number" ? String(label) : undefined;
  } catch {
    throw new SlimViTError("bad-input", `${name}: is not JSON; expected an object with the picture's "label".`);
  }
}
