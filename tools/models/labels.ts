/** A model's labels, from a file or from a checkpoint's config. */
import { readFileSync, statSync } from "node:fs";
import { SlimViTError } from "../../src/errors.ts";
import type { Label } from "../../src/format/model.ts";
import { readText } from "../data/csv.ts";

/**
 * Reads a file with one line a class: id TAB name, or the name alone.
 *
 * @throws SlimViTError `bad-input` for another number of lines than of classes, or an id that comes twice
 */
export function readLabelsFile(file: string, classes: number): Label[] {
  if (!statSync(file, { throwIfNoEntry: false })?.isFile())
    throw new SlimViTError("bad-input", `${file}: no such file.`);
  const lines = readText(readFileSync(file), file)
    .split("\n")
    .filter((line) => line.trim() !== "");
  if (lines.length !== classes)
    throw new SlimViTError("bad-input", `${file}: has ${lines.length} lines; the model has ${classes} classes.`);
  const cells = lines.map((line) => line.split("\t").map(clean));
  if (cells.every((row) => row.length === 1)) return labelsOf(lines);
  const ids = cells.filter((row) => row.length > 1).map(([id]) => id);
  const twice = ids.find((id, k) => ids.indexOf(id) !== k);
  if (twice !== undefined)
    throw new SlimViTError("bad-input", `${file}: has the id "${twice}" twice; each class needs one of its own.`);
  return shortNames(cells.map(([id, name]) => ({ id, label: name || id })));
}

/** Labels without given ids. Each class's id is its name, with its position where another class has the same name. */
export function labelsOf(names: string[]): Label[] {
  const cleaned = names.map((name) => clean(String(name)));
  const isTwice = (name: string) => cleaned.indexOf(name) !== cleaned.lastIndexOf(name);
  return shortNames(cleaned.map((name, k) => ({ id: isTwice(name) ? `${name} #${k}` : name, label: name })));
}

const clean = (name: string) => name.normalize("NFC").trim();

/** WordNet's names are several, with ", " between them; the first one, unless another class has the same. */
function shortNames(labels: Label[]): Label[] {
  const first = labels.map(({ label }) => label.split(/,\s/)[0].trim());
  return labels.map(({ id, label }, k) => ({
    id,
    label: first.indexOf(first[k]) === first.lastIndexOf(first[k]) ? first[k] : label,
  }));
}
