import type { Server } from "node:http";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { serveDemo } from "../../demo/serve.mjs";
import { findChromium } from "../../scripts/setup-chromium.mjs";

let browser: Browser;
let page: Page;
let served: { server: Server; url: string };
const complaints: string[] = [];

beforeAll(async () => {
  served = await serveDemo();
  browser = await chromium.launch({
    executablePath: findChromium(),
    args: ["--no-sandbox", "--disable-quic", "--disable-background-networking"],
  });
  page = await browser.newPage({ viewport: { width: 360, height: 740 } });
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  await page.goto(served.url);
});
afterAll(async () => {
  await browser?.close();
  served?.server.close();
});

const status = () => page.textContent("#status");

test("a sample picture gets its label, with latency, engine, size and MACs", async () => {
  await page.waitForFunction(() => document.getElementById("status")?.textContent?.startsWith("Ready"), null, {
    timeout: 60_000,
  });
  await page.click("[data-sample=panda]");
  await page.waitForSelector("#classes li");
  expect(await status()).toMatch(/giant panda/);
  expect(await page.locator("#classes li").count()).toBe(5);
  expect(await page.textContent("#latency")).toMatch(/preprocess.*ms.*inference.*ms.*total.*ms.*onnx-wasm/s);
  expect(await page.textContent("#facts")).toMatch(/MB.*multiply-accumulates.*G/s);
});

test("nothing is wider than a phone of 360 px", async () => {
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(360);
});

test("a dropped file that is no picture is explained, and the page goes on", async () => {
  await page.setInputFiles("#file", { name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("no picture") });
  await page.waitForSelector("#status.error");
  expect(await status()).toMatch(/no picture this browser can read/);
  await page.click("[data-sample=pizza]");
  await page.waitForSelector("#classes li");
  expect(await status()).toMatch(/pizza/);
});

test("every shipped model loads and answers", async () => {
  const folders = await page
    .locator("#model option")
    .evaluateAll((options) => options.map((option) => (option as HTMLOptionElement).value));
  expect(folders.length).toBeGreaterThan(0);
  for (const folder of folders) {
    await page.selectOption("#model", folder);
    await page.waitForSelector("#classes li", { timeout: 60_000 });
    expect([folder, await status()]).toEqual([folder, expect.stringMatching(/pizza/)]);
  }
});

test("the console stayed clean", () => {
  expect(complaints.filter((text) => !/notes\.txt|blob:/.test(text))).toEqual([]);
});
