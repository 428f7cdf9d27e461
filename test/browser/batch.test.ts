/** examples/batch in Chromium, as a visitor uses it: many pictures, one that is none, progress, and Stop. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type BrowserPage, openPage } from "../../tools/shared/browser.ts";

const root = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const SAMPLES = root("demo/samples");
const PICTURES = readdirSync(SAMPLES).filter((name) => name.endsWith(".jpg"));

let opened: BrowserPage;
beforeAll(async () => {
  opened = await openPage({
    "/batch/node_modules/slimvit/dist": root("dist"),
    "/batch": root("examples/batch"),
    "/models": root("models"),
  });
});
afterAll(() => opened?.close());

const outputText = () => opened.page.locator("output").evaluate((output: HTMLOutputElement) => output.value);
const rowsOf = () =>
  opened.page
    .locator("tbody tr")
    .evaluateAll((rows) =>
      (rows as HTMLTableRowElement[]).map(({ cells }) => [...cells].map((cell) => cell.textContent)),
    );

test("each file has its label or its error in its row, and the progress counts them", async () => {
  const { page, origin } = opened;
  await page.goto(`${origin}/batch/index.html`);
  const names = [PICTURES[0], "ATTRIBUTION.md", "umbrella.jpg"];
  await page.setInputFiles("input", names.map((name) => join(SAMPLES, name))); // biome-ignore format: one call
  await expect.poll(outputText, { timeout: 60_000 }).toBe("3 of 3, 1 of them cannot be read");
  await expect.poll(() => page.locator("button").isHidden()).toBe(true);
  const [first, none, umbrella] = await rowsOf();
  expect(first[0]).toBe(PICTURES[0]);
  expect(none).toEqual(["ATTRIBUTION.md", expect.stringMatching(/ATTRIBUTION\.md/), "bad-input"]);
  expect(umbrella).toEqual(["umbrella.jpg", "umbrella", expect.stringMatching(/^0\.\d\d$/)]);
});

test("Stop ends the batch, keeps the rows that are there, and the next batch is whole", async () => {
  const { page } = opened;
  const buffer = Buffer.from(await (await page.request.get(`${opened.origin}/batch/index.html`)).body());
  const many = Array.from({ length: 2000 }, (_, i) => ({ name: `${i}.txt`, mimeType: "text/plain", buffer }));
  await page.setInputFiles("input", many);
  await page.locator("tbody tr").first().waitFor();
  await page.click("button");
  await expect.poll(outputText).toMatch(/^Stopped after \d+ of 2000$/);
  const stopped = Number.parseInt((await outputText()).slice("Stopped after ".length), 10);
  expect(stopped).toBeGreaterThan(0);
  expect(stopped).toBeLessThan(2000);
  await page.setInputFiles("input", join(SAMPLES, "umbrella.jpg"));
  await expect.poll(outputText, { timeout: 60_000 }).toBe("1 of 1");
  expect((await rowsOf()).map(([name, label]) => [name, label])).toEqual([["umbrella.jpg", "umbrella"]]);
});
