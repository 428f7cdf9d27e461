/** examples/search in Chromium, as a visitor uses it: a folder, a picture, words, and the same again after a reload. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type BrowserPage, openPage } from "../../tools/shared/browser.ts";

const root = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const samples = root("demo/samples");

let opened: BrowserPage;
let texts: string;
beforeAll(async () => {
  texts = mkdtempSync(join(tmpdir(), "slimvit-texts-"));
  const towards = (at: number) => Array.from({ length: 192 }, (_, i) => Number(i === at));
  writeFileSync(join(texts, "texts.json"), JSON.stringify({ one: towards(3), other: towards(4) }));
  opened = await openPage({
    "/search/node_modules/slimvit/dist": root("dist"),
    "/search": root("examples/search"),
    "/models": root("models"),
    "/texts": texts,
    "/samples": samples,
  });
});
afterAll(async () => {
  await opened?.close();
  if (texts) rmSync(texts, { recursive: true });
});

const NAMES = ["umbrella.jpg"];

test("a folder is embedded, a picture finds itself first, words find by their vectors, and a reload keeps all", async () => {
  const { page, origin } = opened;
  const address = `${origin}/search/index.html?texts=/texts/texts.json`;
  const status = () => page.locator("#status").evaluate((output: HTMLOutputElement) => output.value);
  const said = (pattern: RegExp) => expect.poll(status, { timeout: 60_000 }).toMatch(pattern);
  await page.goto(address);
  await said(/^Ready\.$/);
  await page.setInputFiles("#picture", join(samples, NAMES[0]));
  await said(/no pictures yet/);
  await page.setInputFiles("#folder", samples); // its ATTRIBUTION.md is no picture
  await said(/^\d+ pictures can be searched\.$/);
  const count = Number.parseInt(await status(), 10);
  expect(count).toBeGreaterThan(5);
  await page.setInputFiles("#picture", []);
  await page.setInputFiles("#picture", join(samples, NAMES[0]));
  await said(new RegExp(`^${count} pictures searched in \\d+\\.\\d ms\\.$`));
  const captions = () => page.locator("#results figcaption").allTextContents();
  expect((await captions())[0]).toBe(`${NAMES[0]}, 1.00`);
  expect(await captions()).toHaveLength(Math.min(20, count));
  const drawn = await page.locator("#results img").first().evaluate((image: HTMLImageElement) => image.decode().then(() => image.naturalWidth)); // biome-ignore format: one call
  expect(drawn).toBeGreaterThan(0);

  await page.reload();
  await said(new RegExp(`^${count} pictures of earlier visits`));
  await page.setInputFiles("#folder", samples);
  await said(new RegExp(`^${count} pictures can be searched`)); // none a second time
  await page.fill("#words", "one");
  await page.locator("#words").dispatchEvent("change");
  await said(/searched in/);
  const byOne = await captions();
  await page.fill("#words", "other");
  await page.locator("#words").dispatchEvent("change");
  await expect.poll(captions).not.toEqual(byOne);
  await page.fill("#words", "neither");
  await page.locator("#words").dispatchEvent("change");
  await said(/no vector for "neither"/);
  await page.click("#clear");
  await said(/Nothing is kept/);
  await page.reload();
  await said(/^Ready\.$/);
  await page.evaluate(async (url) => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([await (await fetch(url)).blob()], "dropped.jpg", { type: "image/jpeg" }));
    dataTransfer.items.add(new File(["no picture"], "notes.txt"));
    dataTransfer.items.add(new File(["no picture either"], "broken.jpg"));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
  }, "/samples/umbrella.jpg");
  await said(/^1 pictures can be searched\.$/); // the broken one cannot
});
