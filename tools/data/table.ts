/**
 * Classes from a table: a .csv or .tsv of paths and labels, or Hugging Face's imagefolder metadata (metadata.csv or
 * metadata.jsonl beside the pictures).
 */
import { readFileSync, statSync } from "node:fs";
import { dirname, isAbsolute, resolve } from "node:path";
import { SlimViTError } from "../../src/errors.ts";
import { type Annotation, type Entry, folderOf, type Listing, MAX_PICTURE_BYTES, nameOf } from "./entries.ts";
import { splitNamed } from "./splits.ts";

const PATH_COLUMNS = ["path", "file_name", "filename", "file", "filepath", "file_path", "image", "image_path", "img"];
const CLASS_COLUMNS = ["label", "class", "class_name", "classname", "category", "target", "labels", "y"];
const SPLIT_COLUMNS = ["split", "set", "subset", "partition"];

export const isTable = (path: string): boolean => /\.(csv|tsv)$/i.test(path);
export const isMetadata = (path: string): boolean => /^metadata\.(csv|jsonl)$/i.test(nameOf(path));

interface Row extends Annotation {
  path: string;
}

/** @throws SlimViTError `bad-input` naming the line and the fault */
export function listTable(file: string): Listing {
  const rows = rowsOf(readFileSync(file, "utf8"), file);
  const entries: Entry[] = [];
  const annotations = new Map<string, Annotation>();
  rows.forEach(({ path, className, split }, k) => {
    const onDisk = isAbsolute(path) ? path : resolve(dirname(file), path);
    if (!statSync(onDisk, { throwIfNoEntry: false }))
      throw new SlimViTError(
        "bad-input",
        `${file}: row ${k + 1} names "${path}", and there is no such file. Paths start from the table's own folder.`,
      );
    const name = path.normalize("NFC");
    if (annotations.has(name)) throw new SlimViTError("bad-input", `${file}: names "${path}" twice.`);
    annotations.set(name, { className, split });
    entries.push({ path: name, read: async () => readPicture(onDisk) });
  });
  return { entries, annotations, annotatedBy: nameOf(file) };
}

function readPicture(path: string): Buffer {
  const stats = statSync(path);
  if (!stats.isFile()) throw new Error("it is not a file");
  if (stats.size > MAX_PICTURE_BYTES) throw new Error(`it has ${stats.size} bytes`);
  return readFileSync(path);
}

/** Metadata files with a class column, by the pictures that they name; nothing where there are none. */
export async function readMetadata(source: string, entries: Entry[]): Promise<Map<string, Annotation> | undefined> {
  const annotations = new Map<string, Annotation>();
  for (const { path, read } of entries) {
    if (!read || !isMetadata(path)) continue;
    const text = (await read()).toString("utf8");
    const rows = /\.jsonl$/i.test(path) ? jsonRows(text, `${source}:${path}`) : metadataRows(text, `${source}:${path}`);
    const folder = folderOf(path);
    for (const { path: name, ...annotation } of rows ?? [])
      annotations.set((folder ? `${folder}/${name}` : name).normalize("NFC"), annotation);
  }
  return annotations.size ? annotations : undefined;
}

/** The rows of a metadata table; undefined without a class column, because captions and boxes belong to other tasks. */
function metadataRows(text: string, name: string): Row[] | undefined {
  const [header] = cellsOf(text.replace(/^\ufeff/, "").split(/\r?\n/, 1)[0], ",");
  return header && columnOf(header, CLASS_COLUMNS) >= 0 ? rowsOf(text, name) : undefined;
}

function jsonRows(text: string, name: string): Row[] | undefined {
  const rows: Row[] = [];
  for (const [k, line] of text
    .replace(/^\ufeff/, "")
    .split(/\r?\n/)
    .entries()) {
    if (!line.trim()) continue;
    let record: Record<string, unknown>;
    try {
      record = JSON.parse(line);
    } catch {
      throw new SlimViTError("bad-input", `${name}: line ${k + 1} is not JSON.`);
    }
    const label = CLASS_COLUMNS.map((key) => record[key]).find((value) => ["string", "number"].includes(typeof value));
    if (typeof record.file_name !== "string")
      throw new SlimViTError("bad-input", `${name}: line ${k + 1} has no "file_name".`);
    if (label !== undefined) rows.push(rowOf(record.file_name, String(label)));
  }
  return rows.length ? rows : undefined;
}

const columnOf = (header: string[], names: string[]) =>
  header.findIndex((cell) => names.includes(cell.trim().toLowerCase()));

/** Reads rows with or without a header. Without one, the first column is the path and the second the label. */
function rowsOf(text: string, name: string): Row[] {
  const plain = text.replace(/^\ufeff/, "");
  const [first] = plain.split(/\r?\n/, 1);
  const separator = ["\t", ";", ","].find((candidate) => first.includes(candidate)) ?? ",";
  const table = cellsOf(plain, separator).filter((cells) => cells.some((cell) => cell.trim() !== ""));
  const header = table[0] ?? [];
  const hasHeader = columnOf(header, PATH_COLUMNS) >= 0 && columnOf(header, CLASS_COLUMNS) >= 0;
  const [pathColumn, classColumn] = hasHeader
    ? [columnOf(header, PATH_COLUMNS), columnOf(header, CLASS_COLUMNS)]
    : [0, 1];
  const splitColumn = hasHeader ? columnOf(header, SPLIT_COLUMNS) : -1;
  const body = hasHeader ? table.slice(1) : table;
  if (!body.length)
    throw new SlimViTError("bad-input", `${name}: has no rows; expected lines of path${separator}label.`);
  return body.map((cells, k) => {
    const [path, label, split] = [pathColumn, classColumn, splitColumn].map((column) => cells[column]?.trim() ?? "");
    if (!path || cells.length <= classColumn)
      throw new SlimViTError(
        "bad-input",
        `${name}: row ${k + 1} is "${cells.join(separator)}"; expected path${separator}label.`,
      );
    if (split && !splitNamed(split))
      throw new SlimViTError(
        "bad-input",
        `${name}: row ${k + 1} has the split "${split}"; expected train, val or test.`,
      );
    return rowOf(path, label, split);
  });
}

const rowOf = (path: string, label: string, split = ""): Row => ({
  path: path.replaceAll("\\", "/").replace(/^\.\//, ""),
  className: label.trim().normalize("NFC") || undefined,
  ...(split && { split: splitNamed(split) }),
});

/** Quoted cells may hold separators, line ends and doubled quotes (RFC 4180). */
function cellsOf(text: string, separator: string): string[][] {
  const rows: string[][] = [[]];
  let cell = "";
  let quoted = false;
  for (let at = 0; at < text.length; at++) {
    const char = text[at];
    if (quoted) {
      if (char !== '"') cell += char;
      else if (text[at + 1] === '"') cell += text[++at];
      else quoted = false;
    } else if (char === '"' && cell === "") quoted = true;
    else if (char === separator) {
      rows.at(-1)!.push(cell);
      cell = "";
    } else if (char === "\n") {
      rows.at(-1)!.push(cell.replace(/\r$/, ""));
      rows.push([]);
      cell = "";
    } else cell += char;
  }
  rows.at(-1)!.push(cell);
  return rows;
}
