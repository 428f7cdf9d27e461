import { readFileSync } from "node:fs";
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

/** Waits until the headline is this; a headline that never comes fails here, with what is there instead. */
async function expectStatus(pattern: RegExp): Promise<void> {
  await expect.poll(status, { timeout: 30_000 }).toMatch(pattern);
}

test("the first sample is classified on arrival, with latency, engine, size and MACs", async () => {
  await expectStatus(/giant panda, \d+ %/);
  expect(await page.locator("#classes li").count()).toBe(5);
  expect(await page.textContent("#latency")).toMatch(/preprocess.*ms.*inference.*ms.*total.*ms.*(onnx-wasm|simd)/s);
  expect(await page.textContent("#facts")).toMatch(/MB.*multiply-accumulates.*G/s);
});

test.each([
  ["dalmatian", /dalmatian/],
  ["chelsea", /tabby|Egyptian cat|tiger cat/],
  ["grand_piano", /grand piano/],
  ["soccer_ball", /soccer ball/],
])("a click on %s gives its label", async (sample, label) => {
  await page.click(`[data-sample=${sample}]`);
  await expectStatus(label);
  expect(await page.getAttribute(`[data-sample=${sample}]`, "aria-pressed")).toBe("true");
});

test("nothing is wider than a phone of 360 px", async () => {
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(360);
});

test("a dropped file that is no picture is explained, and the page goes on", async () => {
  await page.setInputFiles("#file", { name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("no picture") });
  await page.waitForSelector("#status.error");
  expect(await status()).toMatch(/no picture this browser can read/);
  expect(await page.isVisible("#preview")).toBe(false);
  await page.click("[data-sample=pizza]");
  await expectStatus(/pizza/);
});

test("every shipped model loads and answers", async () => {
  const folders = await page
    .locator("#model option")
    .evaluateAll((options) => options.map((option) => (option as HTMLOptionElement).value));
  expect(folders.length).toBeGreaterThan(0);
  for (const folder of folders) {
    await page.selectOption("#model", folder);
    await page.waitForFunction(() => document.querySelector("#classes li"));
    await expectStatus(/pizza/);
  }
});

test("a picture dropped on the page is classified, and one that is none is explained", async () => {
  const drop = async (bytes: Buffer, name: string, type: string) => {
    const file = { base64: bytes.toString("base64"), name, type };
    await page.evaluate(async ({ base64, name, type }) => {
      const blob = await (await fetch(`data:${type};base64,${base64}`)).blob();
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File([blob], name, { type }));
      document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
    }, file);
  };
  await drop(Buffer.from("%PDF-1.4"), "paper.pdf", "application/pdf");
  await expectStatus(/no picture this browser can read/);
  await drop(readFileSync(new URL("../../demo/samples/panda.jpg", import.meta.url)), "bear.jpg", "image/jpeg");
  await expectStatus(/giant panda/);
  expect(await page.getAttribute("#preview", "alt")).toBe("bear.jpg");
});

test("a page that is not isolated works too, in dark mode on a desktop", async () => {
  const plain = await serveDemo({ isolated: false });
  const other = await browser.newPage({ viewport: { width: 1280, height: 800 }, colorScheme: "dark" });
  try {
    await other.goto(plain.url);
    await expect.poll(() => other.textContent("#status"), { timeout: 30_000 }).toMatch(/giant panda/);
    expect(await other.evaluate(() => crossOriginIsolated)).toBe(false);
  } finally {
    await other.close();
    plain.server.close();
  }
});

test("the console stayed clean", () => {
  expect(complaints.filter((text) => !/notes\.txt|blob:/.test(text))).toEqual([]);
});
