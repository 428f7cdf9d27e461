/** The slider of the variants: a folder of several networks on the demo's page, changed under a picture and under a live camera. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { elastic } from "../../tools/elastic/elastic.ts";
import { CAMERA, type Demo, expectAccessible, expectAnswer, expectVerdict, openDemo } from "./demo.ts";

const SOURCE = fileURLToPath(new URL("../../models/deit-tiny", import.meta.url));
const BUDGETS = [1, 0.75, 0.5, 0.3];
let folder: string;
let demo: Demo;
/** the smallest first */
let variants: { name: string; macs: number; imageSize: [number, number]; blocks: { merge: number }[] }[];
const text = (selector: string) => demo.page.textContent(selector);
const current = () => demo.page.locator("#variant-rows .current th").textContent();
const becomes = (name: string) => expect.poll(current, { timeout: 60_000 }).toBe(name);

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-demo-variants-"));
  const out = join(folder, "elastic");
  await elastic(SOURCE, { out, budgets: BUDGETS, dtype: ["int8"] });
  ({ variants } = JSON.parse(readFileSync(join(out, "slimvit.json"), "utf8")));
  variants.sort((a, b) => a.macs - b.macs);
  demo = await openDemo({ viewport: { width: 360, height: 740 }, args: CAMERA, models: { elastic: out } });
});
afterAll(async () => {
  await demo?.close();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

/** The page takes the best variant for the device by itself: once that is done it leaves the choice to the slider. */
async function slideTo(key: string, { name }: { name: string }): Promise<void> {
  await demo.page.focus("#variant");
  await demo.page.keyboard.press(key);
  await becomes(name);
}

test("the slider has all variants, the smallest at its left, and what answers is said with its milliseconds", async () => {
  await expectAnswer(demo.page);
  await expectVerdict(demo.page, /panda/);
  expect(await demo.page.isVisible("#variants-part")).toBe(true);
  expect(await demo.page.locator("#variant-rows th").allTextContents()).toEqual(variants.map(({ name }) => name));
  await slideTo("Home", variants[0]);
  await slideTo("End", variants.at(-1)!);
  await expect.poll(() => text("#variants-ms"), { timeout: 60_000 }).toMatch(/^[\d.]+ ms$/);
  expect(await text("#variant-name")).toMatch(/100 % of the multiply-accumulates, 224 px$/);
  expect(await demo.page.getAttribute("#variant", "aria-valuetext")).toBe(await text("#variant-name"));
  await slideTo("ArrowLeft", variants.at(-2)!);
});

test("each variant's answer, MACs and tokens are the package's own", async () => {
  const { page } = demo;
  const own = await page.evaluate(
    async (names) => {
      const { SlimViT } = await (Function("return import('slimvit')")() as Promise<typeof globalThis>);
      const picture = await (await fetch("samples/panda.jpg")).blob();
      const said: string[] = [];
      for (const variant of names) {
        const vit = await SlimViT.load("models/elastic/", { variant, dtype: "int8", engine: "simd" });
        const [{ label, score }] = (await vit.classify(picture)).classes;
        said.push(`${label} ${(100 * score).toFixed(0)} %`);
        vit.dispose();
      }
      return said;
    },
    variants.map(({ name }) => name),
  );
  expect(new Set(own).size).toBeGreaterThan(1); // they can be told apart
  for (const [i, variant] of variants.entries()) {
    await slideTo(i ? "ArrowRight" : "Home", variant);
    await expect.poll(() => text("#variants-verdict"), { timeout: 60_000 }).toBe(own[i]);
    const [, value, unit] = (await text(".side.slim .facts"))!.match(/MACs([\d.]+) (G|M)/)!;
    expect(Number(value) * (unit === "G" ? 1e9 : 1e6)).toBeCloseTo(variant.macs, -7);
    const patches = (variant.imageSize[0] / 16) ** 2;
    expect(await text("#blocks tbody tr:first-child td:nth-child(4)")).toBe(String(patches));
  }
  await expect
    .poll(() => page.isVisible("#groups-choice"))
    .toBe(variants.at(-1)!.blocks.some(({ merge }) => merge > 0));
});

test("all are timed by a click, and the one from before answers again", async () => {
  await slideTo("Home", variants[0]);
  await demo.page.click("#variants-time");
  await expect.poll(() => demo.page.isEnabled("#variants-time"), { timeout: 120_000 }).toBe(true);
  const times = await demo.page.locator("#variant-rows td:last-child").allTextContents();
  expect(times).toEqual(variants.map(() => expect.stringMatching(/^[\d.]+ ms$/)));
  await becomes(variants[0].name);
});

test("under a live camera the slider changes the running model, and the budget takes over from it", async () => {
  const { page } = demo;
  await page.click("#variants-camera");
  await expect.poll(() => text("#rate"), { timeout: 60_000 }).toMatch(/frames\/s$/);
  expect(await page.isVisible("#variants-video")).toBe(true);
  for (const [key, variant] of [
    ["End", variants.at(-1)!],
    ["Home", variants[0]],
  ] as const) {
    await slideTo(key, variant);
    await expect
      .poll(() => page.locator(".side.slim .spread").textContent(), { timeout: 60_000 })
      .toMatch(/^[3-9] runs|^\d\d runs/); // frames go on being answered
  }
  await page.check("#variant-auto");
  expect(await page.isDisabled("#variant")).toBe(true);
  const before = await text("#variants-ms");
  await expect.poll(() => text("#variants-ms"), { timeout: 60_000 }).not.toBe(before);
  await page.uncheck("#variant-auto");
  expect(await page.isDisabled("#variant")).toBe(false);
  await page.click("#variants-camera");
  await expect.poll(() => text("#verdict"), { timeout: 60_000 }).toMatch(/panda/);
  expect(await page.isVisible("#variants-video")).toBe(false);
});

test("teaching and searching keep to one variant, and axe finds no fault", async () => {
  const { page } = demo;
  await page.click("#teach-samples");
  await expect.poll(() => text("#taught-verdict"), { timeout: 60_000 }).toMatch(/./);
  expect(await text("#teach-error")).toBe("");
  await page.click("#search-samples");
  await expect.poll(() => text("#search-status"), { timeout: 60_000 }).toMatch(/^18 pictures can be searched/);
  await expectAccessible(page, 360);
  expect(demo.complaints).toEqual([]);
});

test("a model of one network has no slider", async () => {
  const other = await openDemo({ viewport: { width: 360, height: 740 } });
  try {
    await expectAnswer(other.page);
    expect(await other.page.isVisible("#variants-part")).toBe(false);
  } finally {
    await other.close();
  }
});
