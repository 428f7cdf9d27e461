/** A model that merges patches on the demo's page: what merged with what, over the picture, is what the model itself says. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type MergeReport, mergeModel } from "../../tools/masks/merge.ts";
import { type Demo, expectAnswer, expectVerdict, openDemo } from "./demo.ts";

const SOURCE = fileURLToPath(new URL("../../models/deit-tiny", import.meta.url));
const BLOCK = 7;
let folder: string;
let demo: Demo;
let report: MergeReport;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-demo-merged-"));
  const merge = new Map([3, 4, 5, 6, 7, 8].map((block) => [block, 16]));
  report = await mergeModel(SOURCE, { out: join(folder, "merged"), merge });
  demo = await openDemo({
    viewport: { width: 360, height: 740 },
    colorScheme: "dark",
    models: { merged: join(folder, "merged") },
  });
});
afterAll(async () => {
  await demo?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** The package's own groups after the shown block. */
const ownGroups = () =>
  demo.page.evaluate(async (block) => {
    const own = await (Function("return import('slimvit')")() as Promise<{ SlimViT: typeof globalThis.SlimViT }>);
    const vit = await own.SlimViT.load("models/merged/", { engine: "simd" });
    const picture = await (await fetch("samples/panda.jpg")).blob();
    const { groups } = await vit.classify(picture, { explain: true });
    vit.dispose();
    return [...groups[block - 1]] as number[];
  }, BLOCK);

test("tokens, patches and each block's count are the model's own", async () => {
  const { page } = demo;
  await expectAnswer(page);
  await expectVerdict(page, /giant panda/);
  expect(await page.isVisible("#groups-choice")).toBe(true);
  expect(await page.isChecked("#overlay [value=groups]")).toBe(true);
  await page.locator("#patches").scrollIntoViewIfNeeded(); // it is asked for where it can be seen
  await page.locator("#depth").fill(String(BLOCK));
  await expect.poll(() => page.textContent("#depth-words"), { timeout: 30_000 }).toMatch(/^After block 7/);
  const groups = await ownGroups();
  const sizes = [...new Set(groups)].map((token) => groups.filter((other) => other === token).length);
  expect(await page.textContent("#depth-words")).toBe(
    `After block ${BLOCK}, ${sizes.length} tokens stand for ${groups.length} patches; ` +
      `${sizes.filter((size) => size > 1).length} of them for more than one.`,
  );
  const column = await page.locator("#blocks tbody td:nth-child(4) small").allTextContents();
  expect(column.map(Number)).toEqual(report.tokens.map((tokens) => tokens - 1)); // without the class token
});

test("areas of several patches have borders where they end and none inside; single patches show the picture", async () => {
  const { page } = demo;
  await page.waitForTimeout(400); // the fade
  const groups = await ownGroups();
  const side = Math.sqrt(groups.length);
  const isBorder = await page.evaluate((side) => {
    const canvas = document.querySelector("#patches") as HTMLCanvasElement;
    const card = getComputedStyle(canvas).backgroundColor.match(/\d+/g)!.map(Number);
    const cell = canvas.width / side;
    const context = canvas.getContext("2d")!;
    return Array.from({ length: side * side }, (_, patch) => {
      // Just inside of the patch, half way down its left side.
      const [x, y] = [(patch % side) * cell + 1, Math.floor(patch / side) * cell + cell / 2];
      const pixel = context.getImageData(x, y, 1, 1).data;
      return card.every((value, channel) => Math.abs(value - pixel[channel]) <= 2);
    });
  }, side);
  const isMerged = (token: number) => groups.indexOf(token) !== groups.lastIndexOf(token);
  const wrong = groups.flatMap((token, patch) =>
    patch % side && isMerged(token) && isBorder[patch] !== (groups[patch - 1] !== token) ? [patch] : [],
  );
  expect(wrong).toEqual([]);
  expect(new Set(isBorder).size).toBe(2);
  expect(await page.getAttribute("#patches", "aria-label")).toMatch(/areas of patches that one token stands for/);
});

test("a model that drops patches does not offer it", async () => {
  const other = await openDemo({ viewport: { width: 360, height: 740 } });
  try {
    await expectAnswer(other.page);
    expect(await other.page.isVisible("#groups-choice")).toBe(false);
    expect(await other.page.isChecked("#overlay [value=patches]")).toBe(true);
  } finally {
    await other.close();
  }
});
