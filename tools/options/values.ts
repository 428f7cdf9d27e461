/** How values of options are read: from a command line's text, or as a recipe's YAML already has them. */
import { InvalidArgumentError } from "commander";

const fail = (expected: string): never => {
  throw new InvalidArgumentError(`expected ${expected}.`);
};

export function text(value: unknown): string {
  if (typeof value === "string" || typeof value === "number") return String(value);
  return fail("text");
}

/**
 * A path. An empty output path would mean the folder that the command runs in. Shells expand "~" at the start of a word
 * alone, neither in --out=~/model nor in a recipe, where it would name a new folder "~".
 */
export function path(value: unknown): string {
  const read = text(value) || fail("a path, but it is empty");
  return /^~(\/|$)/.test(read) ? fail("a path with the home folder written out instead of ~") : read;
}

/** Every time that the option is given adds to the list. */
export const paths = (value: unknown, before: string[] = []): string[] => [...before, ...[value].flat().map(path)];

export function number(value: unknown): number {
  const read = typeof value === "string" && value.trim() === "" ? Number.NaN : Number(value);
  return ["string", "number"].includes(typeof value) && Number.isFinite(read) ? read : fail("a number");
}

export function positive(value: unknown): number {
  const read = number(value);
  return read > 0 ? read : fail("a number above 0");
}

export function nonNegative(value: unknown): number {
  const read = number(value);
  return read >= 0 ? read : fail("a number of at least 0");
}

export function fraction(value: unknown): number {
  const read = number(value);
  return read >= 0 && read <= 1 ? read : fail("a number from 0 to 1");
}

/** A share of the whole, above 0 because something must be left. */
export function share(value: unknown): number {
  const read = number(value);
  return read > 0 && read <= 1 ? read : fail("a number above 0 and at most 1");
}

export function natural(value: unknown): number {
  const read = number(value);
  return Number.isSafeInteger(read) && read >= 0 ? read : fail("a whole number ≥ 0");
}

export function count(value: unknown): number {
  const read = natural(value);
  return read > 0 ? read : fail("a whole number ≥ 1");
}

/** The runtime's bound, src/worker/threads.ts. */
const MAX_THREADS = 64;

export function threads(value: unknown): number {
  const read = count(value);
  return read <= MAX_THREADS ? read : fail(`a whole number from 1 to ${MAX_THREADS}`);
}

const UNITS: Record<string, number> = { "": 1, b: 1, kb: 1e3, k: 1e3, mb: 1e6, m: 1e6, gb: 1e9, g: 1e9 };

/** 3000000, "3MB", "2.5 MB", "800kB" → bytes */
export function bytes(value: unknown): number {
  const [, amount, unit] = String(value).match(/^(\d+(?:\.\d+)?)\s*([a-z]*)$/i) ?? [];
  const read = Number(amount) * UNITS[(unit ?? "?").toLowerCase()];
  return read > 0 ? Math.round(read) : fail('a size such as "3MB"');
}

/** RandAugment's magnitude. */
export function magnitude(value: unknown): number {
  const read = number(value);
  return read >= 0 && read <= 10 ? read : fail("a number from 0 to 10");
}

/** A list, or a text of values separated by commas. */
const items = (value: unknown): unknown[] => (typeof value === "string" ? value.split(",") : [value].flat());

export const positives = (value: unknown): number[] => items(value).map(positive);

export const shares = (value: unknown): number[] => items(value).map(share);

/** @returns a reader of words out of `known`, separated by commas */
export function list<T extends string>(known: readonly T[]): (value: unknown) => T[] {
  return (value) => {
    const words = items(value) as T[];
    return words.every((word) => known.includes(word))
      ? [...new Set(words)]
      : fail(`${known.join(", ")}, separated by commas`);
  };
}

export const counts = (value: unknown): number[] => items(value).map(count);

/** SIDE or HEIGHTxWIDTH → [height, width] */
export function size(value: unknown): [number, number] {
  const sides = Array.isArray(value) ? value.join("x") : String(value);
  const match = sides.match(/^([1-9]\d*)(?:[x×]([1-9]\d*))?$/);
  return match ? [Number(match[1]), Number(match[2] ?? match[1])] : fail("SIDE or HEIGHTxWIDTH");
}

/** Three numbers, for red, green and blue. */
export function triple(value: unknown): [number, number, number] {
  const values = items(value).map(Number);
  return values.length === 3 && values.every(Number.isFinite)
    ? (values as [number, number, number])
    : fail("three numbers separated by commas");
}

/** BLOCK:PATCHES,… → patches by block */
export const keepList = (value: unknown): Map<number, number> => numbersByBlock(value, "PATCHES");

/** BLOCK:PAIRS,… → pairs by block */
export const pairList = (value: unknown): Map<number, number> => numbersByBlock(value, "PAIRS");

function numbersByBlock(value: unknown, what: string): Map<number, number> {
  const pairs = text(value)
    .split(",")
    .map((item): [number, number] => {
      const match = item.match(/^(\d+):(\d+)$/);
      return match ? [Number(match[1]), Number(match[2])] : fail(`BLOCK:${what}, separated by commas`);
    });
  const byBlock = new Map(pairs);
  return byBlock.size === pairs.length ? byBlock : fail("each block once");
}
