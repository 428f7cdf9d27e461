import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { cardText } from "../../tools/models/card.ts";
import { readManifestFile } from "../../tools/models/folders.ts";

const MODELS = new URL("../../models", import.meta.url).pathname;
const shipped = readdirSync(MODELS).filter((name) => existsSync(join(MODELS, name, "slimvit.json")));

test("there are shipped models", () => {
  expect(shipped).toContain("deit-tiny");
});

test.each(shipped)("the card of %s is what its manifest says", (name) => {
  const card = cardText(readManifestFile(join(MODELS, name)));
  expect(readFileSync(join(MODELS, name, "card.md"), "utf8")).toBe(card);
  expect(card).toMatch(/assumed 3 heads of 64 channels \(timm's; --heads\), LayerNorm eps 0\.000001 \(timm's; --eps\)/);
});
