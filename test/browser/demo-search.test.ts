/** The demo's part that searches: pictures are embedded, a click finds what looks alike, and another visit still knows them. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Demo, expectAccessible, expectAnswer, openDemo } from "./demo.ts";
import { LONG_MS, longestTask } from "./tasks.ts";

const path = (name: string) => join(import.meta.dirname, `../../demo/samples/${name}.jpg`);
const NAMES = ["panda", "dalmatian", "llama", "pizza", "coffee"];
let demo: Demo;
const text = (selector: string) => demo.page.textContent(selector);
const said = (pattern: RegExp) => expect.poll(() => text("#search-status"), { timeout: 60_000 }).toMatch(pattern);
const titles = () =>
  demo.page.locator("#found button").evaluateAll((buttons) => buttons.map((button) => (button as HTMLElement).title));

beforeAll(async () => {
  demo = await openDemo({ viewport: { width: 360, height: 740 } });
});
afterAll(() => demo?.close());

/** The names by their cosine to one of them, by the package's own embeddings. */
const ownOrder = (query: string) =>
  demo.page.evaluate(
    async ([names, query]) => {
      const { SlimViT } = await (Function("return import('slimvit')")() as Promise<typeof globalThis>);
      const vit = await SlimViT.load("models/deit-tiny-slim/", { dtype: "int8" });
      const vectors: Record<string, Float32Array> = {};
      for (const name of names) vectors[name] = await vit.embed(`samples/${name}.jpg`);
      vit.dispose();
      const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, v, i) => sum + v * b[i], 0);
      const cosine = (a: string) => dot(vectors[a], vectors[query]) / Math.sqrt(dot(vectors[a], vectors[a]));
      return [...names].sort((a, b) => cosine(b) - cosine(a)).map((name) => `${name}.jpg`);
    },
    [[...NAMES], query] as const,
  );

test("without pictures it says so", async () => {
  await expectAnswer(demo.page);
  await demo.page.setInputFiles("#search-by", path("panda"));
  await said(/^There are no pictures yet: choose some first\.$/);
});

test("chosen pictures are embedded without a task over 50 ms, and a click orders them by the package's own embeddings", async () => {
  const { page } = demo;
  const longest = await longestTask(demo, async () => {
    await page.setInputFiles("#search-files", NAMES.map(path));
    await said(/^5 pictures can be searched\./);
  });
  expect(longest).toBeLessThanOrEqual(LONG_MS);
  await page.locator('#found button[title="llama.jpg"]').click();
  await said(/^5 pictures searched in \d+\.\d ms for what looks like llama\.jpg\.$/);
  expect(await titles()).toEqual(await ownOrder("llama"));
  const captions = await page.locator("#found button span").allTextContents();
  expect(captions[0]).toBe("1.00");
  expect(captions.map(Number)).toEqual([...captions.map(Number)].sort((a, b) => b - a));
});

test("what cannot be read is said as the package says it, and the others are there", async () => {
  const files = [
    { name: "broken.jpg", mimeType: "image/jpeg", buffer: Buffer.from("no picture") },
    { name: "umbrella.jpg", mimeType: "image/jpeg", buffer: readFileSync(path("umbrella")) },
  ];
  await demo.page.setInputFiles("#search-files", files);
  await said(/^6 pictures can be searched\./);
  const fault = await demo.page.evaluate(async () => {
    const { SlimViT } = await (Function("return import('slimvit')")() as Promise<typeof globalThis>);
    const vit = await SlimViT.load("models/deit-tiny-slim/", { dtype: "int8" });
    const message = await vit
      .embed(new File(["no picture"], "broken.jpg", { type: "image/jpeg" }))
      .catch((error: Error) => error.message);
    vit.dispose();
    return message;
  });
  expect(await text("#search-error")).toBe(fault);
});

test("pictures that are dropped on this part are searched, not labelled", async () => {
  const { page } = demo;
  const label = await text("#verdict");
  const base64 = readFileSync(path("starfish")).toString("base64");
  await page.evaluate(async (base64) => {
    const blob = await (await fetch(`data:image/jpeg;base64,${base64}`)).blob();
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([blob], "starfish.jpg", { type: "image/jpeg" }));
    const drop = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
    document.querySelector("#found")!.dispatchEvent(drop);
  }, base64);
  await said(/^7 pictures can be searched\./);
  expect(await text("#verdict")).toBe(label);
});

test("another visit still finds them, and knows nothing once they are forgotten", async () => {
  const { page } = demo;
  await page.reload();
  await expectAnswer(page);
  await page.setInputFiles("#search-by", path("pizza"));
  await said(/^7 pictures searched in/);
  expect((await titles())[0]).toBe("pizza.jpg");
  await page.click("#search-clear");
  await said(/^Nothing is kept\.$/);
  await page.reload();
  await expectAnswer(page);
  await page.setInputFiles("#search-by", path("pizza"));
  await said(/no pictures yet/);
});

test("the samples are taken by a click; with one picture it says 1 picture; axe finds no fault", async () => {
  const { page } = demo;
  await page.setInputFiles("#search-files", [path("panda")]);
  await said(/^1 picture can be searched\./);
  await page.click("#search-samples");
  await said(/^19 pictures can be searched\./);
  await page.locator('#found button[title="chelsea"]').click();
  await said(/for what looks like chelsea\.$/);
  await expectAccessible(page, 360);
  expect(demo.complaints).toEqual([]);
});
