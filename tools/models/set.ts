/**
 * slimvit set MODEL... -o DIR: models with the same labels as one set, DIR/set.json beside their folders, from which
 * SlimViT.load takes the one that a device can afford. Prints a line a member.
 */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { basename, join, relative, resolve, sep } from "node:path";
import { SlimViTError } from "../../src/errors.ts";
import { countMacs, countParams, type Manifest } from "../../src/format/model.ts";
import {
  MEMBER_FOLDER,
  type ModelSet,
  readSet,
  SET_FORMAT,
  type SetMember,
  worthHaving,
} from "../../src/format/set.ts";
import { percent, say, si } from "../shared/terminal.ts";
import {
  claimOutput,
  manifestText,
  readManifestFile,
  readWeightsFile,
  writeFileAtomic,
  writeFolder,
} from "./folders.ts";
import type { AccuracyRecord } from "./metrics.ts";

export interface SetOptions {
  out: string;
  name?: string;
  /** of the accuracy to take, as slimvit eval recorded it; default what all have been measured on, the most pictures */
  data?: string;
  split?: string;
  /** write set.json alone: the models lie in `out` already */
  inPlace?: boolean;
  force?: boolean;
}

const SET_FILE = "set.json";

interface Source {
  path: string;
  manifest: Manifest;
}

export function makeSet(paths: string[], options: SetOptions): ModelSet {
  const { out, inPlace } = options;
  const sources = paths.map((path): Source => ({ path, manifest: readManifestFile(path) }));
  checkLabels(sources);
  const accuracies = commonAccuracy(sources, options);
  const members = sources.map(({ path, manifest }, i): SetMember => {
    const { labels, weights } = manifest;
    if (!weights.length)
      throw new SlimViTError("bad-model", `${path}: lists no weights; make some with "slimvit export".`);
    return {
      folder: folderOf(path, out, inPlace),
      macs: countMacs(manifest, labels.length),
      params: countParams(manifest, labels.length),
      bytes: Object.fromEntries(weights.map(({ dtype, bytes }) => [dtype, bytes])),
      accuracy: accuracies[i],
    };
  });
  members.sort((a, b) => a.macs - b.macs);
  const set: ModelSet = { format: SET_FORMAT, name: options.name ?? basename(resolve(out)), members };
  const text = manifestText(set);
  readSet(text, join(out, SET_FILE)); // what is written can be read

  if (inPlace) {
    claimFile(join(out, SET_FILE), options.force);
    mkdirSync(out, { recursive: true });
    writeFileAtomic(join(out, SET_FILE), text);
  } else {
    const files: Record<string, string | Uint8Array> = { [SET_FILE]: text };
    for (const { path, manifest } of sources) Object.assign(files, filesOf(path, manifest, folderOf(path, out)));
    claimOutput(out, options.force, paths);
    writeFolder(out, files, options.force);
  }
  report(members, out);
  return set;
}

function checkLabels([first, ...others]: Source[]): void {
  const labelsOf = ({ manifest }: Source) => JSON.stringify(manifest.labels.map(({ id, label }) => [id, label]));
  for (const other of others) {
    if (labelsOf(other) === labelsOf(first)) continue;
    const fault = `has other labels than ${first.path}; the members of a set answer the same question.`;
    throw new SlimViTError("bad-model", `${other.path}: ${fault}`);
  }
}

/** Each model's accuracy on pictures that all were measured on; with one engine and dtype where there is such. */
function commonAccuracy(sources: Source[], { data, split }: SetOptions): SetMember["accuracy"][] {
  const wanted = (a: AccuracyRecord) => (!data || a.data === data) && (!split || a.split === split);
  const recorded = sources.map(({ manifest }) =>
    ((manifest.metrics.accuracy ?? []) as AccuracyRecord[]).filter(wanted),
  );
  const onSame = (a: AccuracyRecord) => (b: AccuracyRecord) => a.data === b.data && a.split === b.split && a.n === b.n;
  const bySame = (a: AccuracyRecord) => (b: AccuracyRecord) =>
    onSame(a)(b) && a.engine === b.engine && a.dtype === b.dtype;
  const isCommon = (same: typeof onSame) => (a: AccuracyRecord) => recorded.every((list) => list.some(same(a)));
  const what = [data, split && `split ${split}`].filter(Boolean).join(", ");
  const how = `"slimvit eval MODEL --data ${data ?? "D"}${split ? ` --split ${split}` : ""} --record" on each`;
  recorded.forEach((list, i) => {
    if (list.length) return;
    const fault = `has no accuracy${what && ` on ${what}`} in its manifest; run ${how}.`;
    throw new SlimViTError("bad-model", `${sources[i].path}: ${fault}`);
  });
  const [best] = recorded[0].filter(isCommon(onSame)).sort((a, b) => b.n - a.n);
  if (!best) {
    const fault = "were not all measured on the same pictures, so their accuracies cannot be compared";
    throw new SlimViTError("bad-model", `${sources.map(({ path }) => path).join(", ")}: ${fault}; run ${how}.`);
  }
  const exact = recorded[0].find((a) => onSame(best)(a) && isCommon(bySame)(a));
  return recorded.map((list) => {
    const { top1, n, data, split, engine, dtype } = list.findLast(exact ? bySame(exact) : onSame(best))!;
    return { top1, n, data, split, engine, dtype };
  });
}

function folderOf(path: string, out: string, inPlace = false): string {
  const folder = inPlace ? relative(resolve(out), resolve(path)).split(sep).join("/") : basename(resolve(path));
  if (MEMBER_FOLDER.test(folder)) return folder;
  const fault = inPlace
    ? `does not lie below ${out}; without --in-place it is copied there.`
    : "has a name that a set cannot hold; expected letters, digits, dots, dashes and underscores.";
  throw new SlimViTError("bad-option", `${path}: ${fault}`);
}

/** What a page may ask for, by its path in the set; checked, as it is about to be published. */
function filesOf(path: string, manifest: Manifest, folder: string): Record<string, Uint8Array> {
  const files: Record<string, Uint8Array> = {};
  for (const entry of manifest.weights) files[`${folder}/${entry.file}`] = readWeightsFile(path, entry).file;
  for (const file of ["slimvit.json", "card.md"])
    if (existsSync(join(path, file))) files[`${folder}/${file}`] = readFileSync(join(path, file));
  return files;
}

function claimFile(path: string, force = false): void {
  if (existsSync(path) && !force)
    throw new SlimViTError("bad-option", `${path}: exists already; give --force to replace it.`);
}

function report(members: SetMember[], out: string): void {
  const worth = worthHaving(members);
  for (const member of members) {
    const { folder, macs, bytes, accuracy } = member;
    const sizes = Object.entries(bytes).map(([dtype, size]) => `${dtype} ${(size / 1e6).toFixed(2)} MB`);
    const better = worth.includes(member) ? undefined : worth.findLast((other) => other.macs <= macs);
    const never = better ? `; never taken: ${better.folder} is as accurate for no more MACs` : "";
    say(`set: ${folder}: top-1 ${percent(accuracy.top1)}, ${si(macs)} MACs, ${sizes.join(", ")}${never}`);
  }
  const { data, split, n } = members[0].accuracy;
  say(`set: ${members.length} members, accuracy on ${n} pictures of ${data}, split ${split} → ${join(out, SET_FILE)}`);
}
