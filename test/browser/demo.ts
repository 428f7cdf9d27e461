/** The demo in a real Chromium: a page, its complaints, and waiting for its answers. */
import type { Server } from "node:http";
import { createRequire } from "node:module";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { expect } from "vitest";
import { serveDemo } from "../../demo/serve.mjs";
import { findChromium } from "../../scripts/setup-chromium.mjs";

const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");

/** A moving test picture in the place of a camera. */
export const CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];

export interface Demo {
  browser: Browser;
  page: Page;
  server: Server;
  url: string;
  /** its server's page, wherever it went */
  served: string;
  /** errors on the console, and those nobody caught */
  complaints: string[];
  close(): Promise<void>;
}

export interface DemoOptions extends BrowserContextOptions {
  isolated?: boolean;
  args?: string[];
  /** where to go instead of to a server of its own */
  url?: string;
  /** folders of more models, by their name below models/; the page's list has these instead of the shipped ones */
  models?: Record<string, string>;
  /** another Chromium, with flags that it needs */
  chrome?: { executablePath: string; args: string[] };
  /** runs in the page before its own scripts */
  before?: () => void;
}

export async function openDemo({
  isolated = true,
  args = [],
  url,
  before,
  models = {},
  chrome,
  ...context
}: DemoOptions = {}): Promise<Demo> {
  const folders = Object.entries(models);
  const served = await serveDemo({ isolated, more: folders.map(([name, path]) => [`/models/${name}/`, path]) });
  const browser = await chromium.launch({
    executablePath: chrome?.executablePath ?? findChromium(),
    args: [...["--no-sandbox", "--disable-quic", "--disable-background-networking"], ...args, ...(chrome?.args ?? [])],
  });
  // A service worker's requests would pass the list's route by.
  const own = folders.length ? { serviceWorkers: "block" as const } : {};
  const page = await (await browser.newContext({ ...own, ...context })).newPage();
  if (before) await page.addInitScript(before);
  if (folders.length)
    await page
      .context()
      .route("**/models/index.json", (route) =>
        route.fulfill({ json: folders.map(([folder]) => ({ folder, title: folder })) }),
      );
  const complaints: string[] = [];
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  await page.goto(url ?? served.url);
  return {
    browser,
    page,
    ...served,
    served: served.url,
    complaints,
    async close() {
      // A handler that is still answering a request would reject after the test, and fail the run with every test passing.
      await page.context().unrouteAll({ behavior: "ignoreErrors" });
      await browser.close();
      served.server.closeAllConnections();
      served.server.close();
    },
  };
}

/** Waits until the headline is this; one that never comes fails here, with what is there instead. */
export async function expectVerdict(page: Page, pattern: RegExp): Promise<void> {
  await expect.poll(() => page.textContent("#verdict"), { timeout: 60_000 }).toMatch(pattern);
}

/** Waits until the model that the page starts with has answered and shows its milliseconds, and the parts below are there. */
export async function expectAnswer(page: Page): Promise<void> {
  await expect.poll(() => page.textContent("#ms"), { timeout: 60_000 }).toMatch(/\d ms$/);
  await expect.poll(() => page.locator(".copy-code").count(), { timeout: 60_000 }).toBeGreaterThan(0);
  expect(await page.textContent("#parts-error")).toBe("");
}

/** Asks for the comparison with the dense model, and waits until both have answered. */
export async function expectBoth(page: Page): Promise<void> {
  await expect.poll(() => page.isEnabled("#compare")).toBe(true);
  await expectAnswer(page);
  if (!(await page.isChecked("#compare"))) await page.check("#compare");
  await expect.poll(() => page.textContent("#comparison"), { timeout: 60_000 }).toMatch(/× as fast/);
}

export async function drop(page: Page, bytes: Buffer, name: string, type: string): Promise<void> {
  const file = { base64: bytes.toString("base64"), name, type };
  await page.evaluate(async ({ base64, name, type }) => {
    const blob = await (await fetch(`data:${type};base64,${base64}`)).blob();
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([blob], name, { type }));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
  }, file);
}

/** In both themes axe finds no fault, and nothing is wider than the screen, in px. */
export async function expectAccessible(page: Page, width: number): Promise<void> {
  expect(await accessibilityFaults(page)).toEqual([]);
  await page.click("#theme");
  expect(await accessibilityFaults(page)).toEqual([]);
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(width);
}

/** What axe finds on the page as it looks at rest: a colour half way from light to dark has the contrast of neither. */
export async function accessibilityFaults(page: Page): Promise<string[]> {
  if (!(await page.evaluate(() => "axe" in globalThis))) await page.addScriptTag({ path: AXE });
  const { violations } = await page.evaluate(async () => {
    // Those of parts that are not laid out yet would not end by themselves.
    for (const animation of document.getAnimations()) if (animation instanceof CSSTransition) animation.finish();
    return (globalThis as unknown as { axe: typeof import("axe-core") }).axe.run();
  });
  return violations.map(({ id, help, nodes }) => `${id}: ${help} (${nodes.map(({ target }) => target).join(", ")})`);
}
