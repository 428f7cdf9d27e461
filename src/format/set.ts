/** `set.json`: models with the same labels at several costs, of which a device takes the best that it can afford. */
import { messageOf, SlimViTError } from "../errors.ts";
import { Check } from "./check.ts";
import type { WeightsDtype } from "./model.ts";
import { show } from "./show.ts";

export const SET_FORMAT = "slimvit-set/1";

/** Bounds on what is read before anything of it is believed. */
export const MAX_SET_BYTES = 2 ** 16;
export const MAX_MEMBERS = 32;

const DTYPES: readonly string[] = ["f32", "f16", "int8"] satisfies WeightsDtype[];

/** On which pictures, and by what. */
export interface SetAccuracy {
  /** fraction of 1 */
  top1: number;
  /** pictures */
  n: number;
  data: string;
  split: string;
  engine: string;
  dtype: string;
}

export interface SetMember {
  /** below the set's own folder: "deit-tiny-slim" */
  folder: string;
  macs: number;
  params: number;
  /** size of the weights file of each dtype that the folder has */
  bytes: Partial<Record<WeightsDtype, number>>;
  /** all members' on the same pictures */
  accuracy: SetAccuracy;
}

export interface ModelSet {
  format: typeof SET_FORMAT;
  name: string;
  members: SetMember[];
}

/** A path of plain names: none can lead out of the folder, in a browser, on a disk, or percent-encoded. */
export const MEMBER_FOLDER = /^\w[\w.-]*(\/\w[\w.-]*)*$/;

/**
 * @param name how messages call the file
 * @param base the set's folder; a member may be given by its address in it, too
 * @returns the set, each `folder` relative to `base` and without a slash at its end
 * @throws SlimViTError `bad-model`, naming the member and the fault; `bad-option` for a single model's manifest
 */
export function readSet(text: string, name: string, base = ""): ModelSet {
  const check = new Check(name);
  if (text.length > MAX_SET_BYTES) check.fail(`is longer than ${MAX_SET_BYTES} bytes.`);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    check.fail(`is not JSON (${messageOf(error)}).`);
  }
  const set = check.object(json, "the set");
  if (String(set.format).startsWith("slimvit/")) {
    const fault = 'is a single model, and latencyMs chooses among several; make a set of them with "slimvit set".';
    throw new SlimViTError("bad-option", `${name}: ${fault}`);
  }
  if (set.format !== SET_FORMAT) {
    check.fail(
      `has format ${show(set.format)}; this version reads "${SET_FORMAT}". Make the set again with "slimvit set".`,
    );
  }
  check.string(set.name, "name");
  const seen = new Set<string>();
  const members = check.list(set.members, "members", 1, MAX_MEMBERS).map((entry, i): SetMember => {
    const member = check.object(entry, `members[${i}]`);
    const folder = folderIn(check, member.folder, `members[${i}].folder`, base);
    const at = `member "${folder}"`;
    if (seen.has(folder)) check.fail(`${at} is there twice.`);
    seen.add(folder);
    return {
      folder,
      macs: check.integer(member.macs, `${at}: macs`, 1, Number.MAX_SAFE_INTEGER),
      params: check.integer(member.params, `${at}: params`, 1, Number.MAX_SAFE_INTEGER),
      bytes: readBytes(check, member.bytes, at),
      accuracy: readAccuracy(check, member.accuracy, at),
    };
  });
  return { format: SET_FORMAT, name: set.name as string, members };
}

/** Cheapest first, each more accurate than all that cost no more. */
export function worthHaving(members: SetMember[]): SetMember[] {
  const ordered = [...members].sort((a, b) => a.macs - b.macs || b.accuracy.top1 - a.accuracy.top1);
  return ordered.filter((member, i) => ordered.slice(0, i).every((o) => o.accuracy.top1 < member.accuracy.top1));
}

function folderIn(check: Check, value: unknown, what: string, base: string): string {
  const inside = base && typeof value === "string" && value.startsWith(base) ? value.slice(base.length) : value;
  const folder = typeof inside === "string" ? inside.replace(/\/$/, "") : "";
  if (!MEMBER_FOLDER.test(folder))
    check.fail(`${what} is ${show(value)}; expected a folder below the set's own, such as "deit-tiny-slim".`);
  return folder;
}

function readBytes(check: Check, value: unknown, at: string): SetMember["bytes"] {
  const entries = Object.entries(check.object(value, `${at}: bytes`));
  if (!entries.length) check.fail(`${at}: bytes is empty; expected the size of a weights file by its dtype.`);
  for (const [dtype, bytes] of entries) {
    if (!DTYPES.includes(dtype)) check.fail(`${at}: bytes has ${show(dtype)}; expected "f32", "f16" or "int8".`);
    check.integer(bytes, `${at}: bytes.${dtype}`, 8, 2 ** 31);
  }
  return Object.fromEntries(entries);
}

function readAccuracy(check: Check, value: unknown, at: string): SetAccuracy {
  const { top1, n, ...rest } = check.object(value, `${at}: accuracy`);
  if (typeof top1 !== "number" || !(top1 >= 0 && top1 <= 1))
    check.fail(`${at}: accuracy.top1 is ${show(top1)}; expected a number from 0 to 1.`);
  const pictures = check.integer(n, `${at}: accuracy.n`, 1, Number.MAX_SAFE_INTEGER);
  const text = (key: string) => check.string(rest[key], `${at}: accuracy.${key}`);
  return {
    top1: top1 as number,
    n: pictures,
    data: text("data"),
    split: text("split"),
    engine: text("engine"),
    dtype: text("dtype"),
  };
}
