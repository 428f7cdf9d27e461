/** The lines of code on the demo's page: they run, they are copied as they stand, and their links lead somewhere. */
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Demo, expectAccessible, expectAnswer, openDemo } from "./demo.ts";

const REPOSITORY = "https://github.com/slimvit/slimvit";
let demo: Demo;

beforeAll(async () => {
  demo = await openDemo({ viewport: { width: 360, height: 740 } });
  await demo.browser.contexts()[0].grantPermissions(["clipboard-read", "clipboard-write"]);
});
afterAll(() => demo?.close());

const blocks = () => demo.page.locator(".code pre").allTextContents();

test("every part of the page has its code", async () => {
  await expectAnswer(demo.page);
  const parts = demo.page.locator("main > section");
  expect(await parts.count()).toBeGreaterThanOrEqual(9);
  for (const part of await parts.all())
    expect(await part.locator(".code pre").count(), (await part.getAttribute("aria-labelledby"))!).toBeGreaterThan(0);
});

test("the code runs as it stands", async () => {
  const runs = (await blocks()).filter((code) => !code.startsWith("npm "));
  expect(runs.length).toBeGreaterThanOrEqual(9);
  for (const code of runs) {
    const body = code.replaceAll(/^import .*\n/gm, "");
    const prefix = /\bvit = /.test(body) ? "" : "const vit = await SlimViT.load(model);\n";
    const fault = await demo.page.evaluate(async (script) => {
      const own = await (Function("return import('slimvit')")() as Promise<{ SlimViT: typeof globalThis.SlimViT }>);
      const url = "samples/panda.jpg";
      const file = new File([await (await fetch(url)).blob()], "panda.jpg", { type: "image/jpeg" });
      const given = {
        ...{ SlimViT: own.SlimViT, model: "models/deit-tiny-slim/", file, url },
        ...{ files: [file, file], mugs: [file, file], cups: [file, file] },
        pipeline: async () => async () => [], // transformers.js's; demo-peer.test.ts holds how it is called
        video: new ReadableStream({
          start(controller) {
            controller.enqueue(file);
            controller.close();
          },
        }),
      };
      const AsyncFunction = (async () => {}).constructor as FunctionConstructor;
      const run = AsyncFunction(...Object.keys(given), script);
      return run(...Object.values(given)).then(
        () => "",
        (error: Error) => `${error.message}`,
      );
    }, prefix + body);
    expect(fault, code).toBe("");
  }
}, 120_000);

test("a click copies exactly the code that is shown", async () => {
  const { page } = demo;
  await page.locator("#variants-part").evaluate((part) => part.removeAttribute("hidden")); // this model has one variant
  for (const summary of await page.locator(".code summary").all()) await summary.click();
  const shown = await blocks();
  for (const [i, code] of shown.entries()) {
    await page.locator(".copy-code").nth(i).click();
    await expect.poll(() => page.locator(".copy-code").nth(i).textContent()).toBe("Copied");
    expect(await page.evaluate(() => navigator.clipboard.readText())).toBe(code);
  }
});

test("axe finds no fault with all code open, and nothing is wider than the screen", async () => {
  const { page } = demo;
  await expectAccessible(page, 360);
});

test("links into the repository lead to files and headings that are there", async () => {
  const links = await demo.page
    .locator(`a[href^="${REPOSITORY}"]`)
    .evaluateAll((all) => all.map((link) => (link as HTMLAnchorElement).href));
  expect(links.length).toBeGreaterThanOrEqual(6);
  for (const link of links) {
    const [address, anchor] = link.slice(REPOSITORY.length).split("#");
    const path = address.replace(/^\/(blob|tree)\/main\//, "") || "README.md";
    const file = fileURLToPath(new URL(`../../${path}`, import.meta.url));
    expect(existsSync(file), link).toBe(true);
    if (!anchor) continue;
    const headings = readFileSync(file, "utf8").match(/^#+ .*$/gm)!;
    expect(
      headings.map((line) => line.replace(/^#+ /, "").toLowerCase().replaceAll(" ", "-")),
      link,
    ).toContain(anchor);
  }
});
