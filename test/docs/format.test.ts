/** docs/format.md against the reader. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { readManifest } from "../../src/format/manifest.ts";
import { countMacs } from "../../src/format/model.ts";

const PAGE = readFileSync(new URL("../../docs/format.md", import.meta.url), "utf8");

test("the example of docs/format.md is a manifest that the reader accepts, with its true MACs", () => {
  const [, example] = PAGE.match(/```json\n([^`]+)```/)!;
  const manifest = readManifest(example, "docs/format.md");
  expect(manifest.blocks.map(({ merge }) => merge)).toEqual([0, 1, 0]);
  expect(JSON.parse(example).variants[0].macs).toBe(countMacs(manifest, manifest.labels.length));
});
