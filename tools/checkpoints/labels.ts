/** Names of the classes: --labels, or what the config says. */
import { existsSync, readFileSync } from "node:fs";
import { SlimViTError } from "../../src/errors.ts";
import type { Label } from "../../src/format/model.ts";

type Json = Record<string, unknown>;

export function readLabels(file: string | undefined, config: Json, classes: number, assumed: string[]): Label[] {
  if (file) return labelsFile(file, classes);
  const names = configured(config, classes);
  if (names) return names.map((label, k) => ({ id: String(k), label }));
  assumed.push(`the labels "class 0" to "class ${classes - 1}" (--labels classes.tsv)`);
  return Array.from({ length: classes }, (_, k) => ({ id: String(k), label: `class ${k}` }));
}

/** transformers' id2label or label2id; timm's label_names, at the top or of the weights. */
function configured(config: Json, classes: number): string[] | undefined {
  const id2label = config.id2label as Record<string, string> | undefined;
  if (id2label && Object.keys(id2label).length === classes) {
    const names = Array.from({ length: classes }, (_, k) => id2label[k]);
    if (names.every((name) => typeof name === "string")) return names;
  }
  const label2id = Object.entries((config.label2id ?? {}) as Record<string, number>);
  if (label2id.length === classes) {
    const names: string[] = [];
    for (const [name, id] of label2id) names[Number(id)] = name;
    if (names.length === classes && !names.includes(undefined as never)) return names;
  }
  const timm = (config.pretrained_cfg ?? {}) as Json;
  for (const list of [config.label_names, timm.label_names]) {
    if (Array.isArray(list) && list.length === classes && list.every((name) => typeof name === "string")) return list;
  }
  return undefined;
}

function labelsFile(file: string, classes: number): Label[] {
  if (!existsSync(file)) throw new SlimViTError("bad-input", `${file}: no such file.`);
  const lines = readFileSync(file, "utf8").split(/\r?\n/).filter(Boolean);
  if (lines.length !== classes)
    throw new SlimViTError("bad-input", `${file}: has ${lines.length} lines; the model has ${classes} classes.`);
  return shortNames(lines.map((line) => line.split("\t")).map(([id, names]) => ({ id, label: names ?? id })));
}

/** The first of several comma-separated names, unless another class has the same one. */
function shortNames(labels: Label[]): Label[] {
  const first = labels.map(({ label }) => label.split(", ")[0].trim());
  return labels.map(({ id, label }, k) => ({
    id,
    label: first.indexOf(first[k]) === first.lastIndexOf(first[k]) ? first[k] : label,
  }));
}
