/**
 * Classes from a table: a .csv or .tsv of paths and labels, or Hugging Face's imagefolder metadata (metadata.csv or
 * metadata.jsonl beside the pictures).
 */
import { readFileSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { SlimViTError } from "../../src/errors.ts";
import { cellsOf, readText } from "./csv.ts";
import { type Annotation, type Entry, folderOf, isLitter, isPicture, type Listing, nameOf } from "./entries.ts";
import { readPicture } from "./folder.ts";
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
  const rows = rowsOf(readText(readFileSync(file), file), file);
  const entries: Entry[] = [];
  const annotations = new Map<string, Annotation>();
  const places = new Set<string>();
  rows.forEach(({ path, className, split }, k) => {
    const onDisk = placeOf(file, path);
    if (!statSync(onDisk, { throwIfNoEntry: false }))
      throw new SlimViTError(
        "bad-input",
        `${file}: row ${k + 1} names "${path}", and there is no such file. Paths start from the table's own folder.`,
      );
    const name = path.normalize("NFC");
    if (places.has(onDisk)) throw new SlimViTError("bad-input", `${file}: names "${path}" twice.`);
    places.add(onDisk);
    annotations.set(name, { className, split });
    entries.push({ path: name, read: async () => readPicture(onDisk) });
  });
  return { entries, annotations, annotatedBy: nameOf(file) };
}

/** The pictures that a table names: their paths as it has them, and where they are. */
export const tablePictures = (file: string): { path: string; onDisk: string }[] =>
  rowsOf(readText(readFileSync(file), file), file).map(({ path }) => ({ path, onDisk: placeOf(file, path) }));

const placeOf = (file: string, path: string) => resolve(dirname(file), path);

/** Metadata files with a class column, by the pictures that they name; nothing where there are none. */
export async function readMetadata(source: string, entries: Entry[]): Promise<Map<string, Annotation> | undefined> {
  const annotations = new Map<string, Annotation>();
  for (const { path, read } of entries) {
    if (!read || !isMetadata(path) || isLitter(path)) continue;
    const name = `${source}:${path}`;
    const text = readText(await read(), name);
    const rows = /\.jsonl$/i.test(path) ? jsonRows(text, name) : metadataRows(text, name);
    const folder = folderOf(path);
    for (const { path: picture, ...annotation } of rows ?? []) {
      const from = (folder ? `${folder}/${picture}` : picture).normalize("NFC");
      const known = annotations.get(from);
      if (known && known.className !== annotation.className)
        throw new SlimViTError(
          "bad-input",
          `${name}: gives "${picture}" two classes, "${known.className}" and "${annotation.className}".`,
        );
      annotations.set(from, annotation);
    }
  }
  return annotations.size ? annotations : undefined;
}

/** The rows of a metadata table; undefined without a class column, because captions and boxes belong to other tasks. */
function metadataRows(text: string, name: string): Row[] | undefined {
  const [header = []] = cellsOf(text.replace(SEPARATOR_LINE, "").split("\n", 1)[0], separatorOf(text)).rows;
  return columnOf(header, CLASS_COLUMNS) >= 0 ? rowsOf(text, name) : undefined;
}

function jsonRows(text: string, name: string): Row[] | undefined {
  const rows: Row[] = [];
  for (const [k, line] of text.split("\n").entries()) {
    if (!line.trim()) continue;
    const wrong = (why: string) => new SlimViTError("bad-input", `${name}: line ${k + 1} ${why}.`);
    let record: Record<string, unknown> | null;
    try {
      record = JSON.parse(line);
    } catch {
      throw wrong("is not JSON");
    }
    if (typeof record?.file_name !== "string") throw wrong('has no "file_name"');
    const { file_name: path } = record;
    const cellOf = (keys: string[]) =>
      keys.map((key) => record[key]).find((value) => ["string", "number"].includes(typeof value));
    const [label, split] = [cellOf(CLASS_COLUMNS), String(cellOf(SPLIT_COLUMNS) ?? "")];
    if (split && !splitNamed(split)) throw wrong(`has the split "${split}"; expected train, val or test`);
    if (label !== undefined) rows.push(rowOf(path, String(label), split));
  }
  return rows.length ? rows : undefined;
}

const columnOf = (header: string[], names: string[]) =>
  header.findIndex((cell) => names.includes(cell.trim().toLowerCase()));

/** Excel may name the separator in a first line of its own. */
const SEPARATOR_LINE = /^"?sep=(.)"?\n/i;

function separatorOf(text: string): string {
  const named = text.match(SEPARATOR_LINE);
  if (named) return named[1];
  const [first] = text.split("\n", 1);
  return ["\t", ";", ","].find((candidate) => first.includes(candidate)) ?? ",";
}

/** Reads rows with or without a header. Without one, the first column is the path and the second the label. */
function rowsOf(text: string, name: string): Row[] {
  const separator = separatorOf(text);
  const { rows, openQuote } = cellsOf(text.replace(SEPARATOR_LINE, "\n"), separator);
  if (openQuote !== undefined)
    throw new SlimViTError("bad-input", `${name}: line ${openQuote} opens a quote (") that never closes.`);
  const table = rows.filter((cells) => cells.some((cell) => cell.trim() !== ""));
  const header = table[0] ?? [];
  const hasHeader = columnOf(header, PATH_COLUMNS) >= 0 && columnOf(header, CLASS_COLUMNS) >= 0;
  const [pathColumn, classColumn] = hasHeader
    ? [columnOf(header, PATH_COLUMNS), columnOf(header, CLASS_COLUMNS)]
    : [0, 1];
  const splitColumn = hasHeader ? columnOf(header, SPLIT_COLUMNS) : -1;
  const body = hasHeader ? table.slice(1) : table;
  if (!body.length)
    throw new SlimViTError("bad-input", `${name}: has no rows; expected lines of path${separator}label.`);
  if (!hasHeader && body.length > 1 && !isPicture(body[0][0]) && isPicture(body[1][0]))
    throw new SlimViTError(
      "bad-input",
      `${name}: its columns are called "${body[0].join('", "')}". Call that of the pictures "path" and that of the classes "label".`,
    );
  const width = hasHeader ? header.length : Math.min(...body.map(widthOf));
  return body.map((cells, k) => {
    const wrong = (why: string) => new SlimViTError("bad-input", `${name}: row ${k + 1} ${why}.`);
    const [path, label, split] = [pathColumn, classColumn, splitColumn].map((column) => cells[column]?.trim() ?? "");
    if (!path || cells.length <= classColumn)
      throw wrong(`is "${cells.join(separator)}"; expected path${separator}label`);
    if (widthOf(cells) > width)
      throw wrong(`has ${widthOf(cells)} cells, not ${width}; put a cell that holds "${separator}" in quotes`);
    if (split && !splitNamed(split)) throw wrong(`has the split "${split}"; expected train, val or test`);
    return rowOf(path, label, split);
  });
}

/** Cells up to the last that is not empty, because spreadsheets end rows with empty ones; 2 at least. */
const widthOf = (cells: string[]) => Math.max(2, cells.findLastIndex((cell) => cell.trim() !== "") + 1);

const rowOf = (path: string, label: string, split = ""): Row => ({
  path: path.replaceAll("\\", "/").replace(/^\.\//, ""),
  className: label.trim().normalize("NFC") || undefined,
  ...(split && { split: splitNamed(split) }),
});
