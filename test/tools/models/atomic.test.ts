/**
 * Output folders and files appear whole or not at all: every change to the disk is cut off in its middle in turn, and
 * after it nothing more happens, as in a process that was killed. test/robustness/killed.test.ts kills real processes.
 */
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { afterEach, expect, test } from "vitest";
import type { Tensors } from "../../../src/format/model.ts";
import { readModelFolder, writeFileAtomic, writeFolder, writeModelFolder } from "../../../tools/models/folders.ts";
import { manifestOf } from "../../helpers.ts";
import { randomTensors, tinyArchitecture, workplace } from "../fixtures.ts";

const at = workplace("atomic");
const { writeFileSync, renameSync, mkdirSync, rmSync, linkSync, copyFileSync, cpSync } = fs;
const ORIGINAL = { writeFileSync, renameSync, mkdirSync, rmSync, linkSync, copyFileSync, cpSync };
afterEach(() => {
  Object.assign(fs, ORIGINAL);
  syncBuiltinESMExports();
});

class Killed extends Error {}

/** Runs `work`, and ends it in the middle of change `at`. @returns how many changes were begun */
function cutOff(at: number, work: () => void): number {
  let changes = 0;
  for (const [name, whole] of Object.entries(ORIGINAL) as [string, (...args: unknown[]) => unknown][]) {
    (fs as unknown as Record<string, unknown>)[name] = (path: string, ...rest: unknown[]) => {
      changes++;
      if (changes > at) throw new Killed();
      if (changes < at) return whole(path, ...rest);
      const content = rest[0] as string | Uint8Array;
      if (name === "writeFileSync") writeFileSync(path, content.slice(0, content.length / 2));
      throw new Killed();
    };
  }
  syncBuiltinESMExports();
  try {
    work();
  } catch (error) {
    if (!(error instanceof Killed)) throw error;
  } finally {
    Object.assign(fs, ORIGINAL);
    syncBuiltinESMExports();
  }
  return changes;
}

/** Calls `work` with each of its changes cut off, and `check` after each. */
function cutOffEverywhere(work: () => void, check: (change: number) => void): void {
  for (let change = 1; ; change++) {
    if (cutOff(change, work) < change) break;
    check(change);
    expect(change).toBeLessThan(100);
  }
}

test("a file has its old content or its new one", () => {
  const path = at("file", "settings.json");
  const [before, after] = ["the old content of this file", "the new one, which is longer than the old one was"];
  const seen = new Set<string>();
  cutOffEverywhere(
    () => writeFileAtomic(path, after),
    () => {
      const content = fs.existsSync(path) ? fs.readFileSync(path, "utf8") : "";
      seen.add(content);
      expect(["", before, after]).toContain(content);
      mkdirSync(at("file"), { recursive: true });
      writeFileSync(path, before);
    },
  );
  expect(fs.readFileSync(path, "utf8")).toBe(after);
  expect(seen).toContain(before);
});

test("a folder has all of its files or is not there", () => {
  const out = at("folder");
  const files = { "a.txt": "first of three", "deep/b.txt": "second of three", "c.txt": "third of three" };
  const isWhole = () =>
    Object.entries(files).every(([name, content]) => fs.readFileSync(at("folder", name), "utf8") === content);
  const there: boolean[] = [];
  cutOffEverywhere(
    () => writeFolder(out, files),
    () => {
      there.push(fs.existsSync(out));
      expect(!fs.existsSync(out) || isWhole()).toBe(true);
      rmSync(out, { recursive: true, force: true });
    },
  );
  expect(there.filter((is) => !is).length).toBeGreaterThanOrEqual(4); // three files and a rename at least
  expect(isWhole()).toBe(true);
});

test("a model folder that replaces another one is the old model, the new one or, between two renames, away", () => {
  const arch = tinyArchitecture();
  const draft = { ...manifestOf(arch, 3), name: "model" };
  const [old, young]: Tensors[] = [1, 2].map((seed) => randomTensors(arch, 3, seed));
  const firstOf = (tensors: Tensors) => (tensors.get("head.bias")!.data as Float32Array)[0];
  const out = at("model");
  const states: string[] = [];
  cutOffEverywhere(
    () => writeModelFolder(out, draft, young, ["f32", "int8"], { "notes.txt": "a note" }, true),
    () => {
      let state = "away";
      if (fs.existsSync(out)) {
        const model = readModelFolder(out, "f32"); // throws for one that is not whole
        readModelFolder(out, "int8");
        const first = firstOf(model.tensors);
        expect([firstOf(old), firstOf(young)]).toContain(first);
        state = first === firstOf(old) ? "old" : "new";
      }
      states.push(state);
      rmSync(out, { recursive: true, force: true });
      writeModelFolder(out, draft, old, ["f32", "int8"], {}, true);
    },
  );
  expect(states.slice(1)).toContain("old");
  // Away from the second rename's beginning to its end, and nowhere else.
  expect(states.slice(1).filter((state) => state === "away")).toHaveLength(1);
  expect(firstOf(readModelFolder(out).tensors)).toBe(firstOf(young));
});
