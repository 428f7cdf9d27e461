/** What the tests of data sets share: sources with few files, and what is read of them. */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { beforeEach, vi } from "vitest";
import { openDataset, type Split } from "../../../tools/data/data.ts";
import { workplace } from "../fixtures.ts";

export const at = workplace("data");
let folders = 0;
let text = "";

beforeEach(() => {
  text = "";
  vi.spyOn(process.stderr, "write").mockImplementation((more) => {
    text += more;
    return true;
  });
});

/** What the commands have said on stderr in this test. */
export const said = (): string => text;

/** A folder with these files, whose content is their path unless given. */
export function folderOf(files: string[] | Record<string, string>): string {
  const root = at(`data${folders++}`);
  for (const [path, content] of Array.isArray(files) ? files.map((path) => [path, path]) : Object.entries(files)) {
    mkdirSync(dirname(`${root}/${path}`), { recursive: true });
    writeFileSync(`${root}/${path}`, content);
  }
  return root;
}

/** className → the paths of its pictures */
export async function opened(source: string, split: Split = "all", options = {}): Promise<Record<string, string[]>> {
  const { pictures, classNames } = await openDataset([source], split, options);
  const all: Record<string, string[]> = Object.fromEntries(classNames.map((name) => [name, []]));
  for (const { name, className } of pictures) (all[className] ??= []).push(name.slice(source.length + 1));
  return all;
}

export const numbered = (folder: string, count: number) =>
  Array.from({ length: count }, (_, k) => `${folder}/${k}.png`);
