/** The names of the classes, from --labels or the config. */
import type { Label } from "../../src/format/model.ts";
import { labelsOf, readLabelsFile } from "../models/labels.ts";

type Json = Record<string, unknown>;

export function readLabels(file: string | undefined, config: Json, classes: number, assumed: string[]): Label[] {
  if (file) return readLabelsFile(file, classes);
  const names = configured(config, classes);
  if (names) return labelsOf(names);
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
