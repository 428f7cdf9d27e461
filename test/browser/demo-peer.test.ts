/** The comparison with transformers.js, with modules of the tests in the CDN's place: what is loaded, said and computed. */
import { readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { Page } from "playwright-core";
import { expect, test } from "vitest";
import type { PeersFile } from "../../peers/report.ts";
import { findWebnnChromium, WEBNN_FLAGS } from "../../scripts/setup-webnn.mjs";
import { listen } from "../servers.ts";
import { type Demo, type DemoOptions, expectAnswer, openDemo } from "./demo.ts";

const SOURCE = readFileSync(new URL("../../demo/peer.js", import.meta.url), "utf8");
const constant = (name: string) => SOURCE.match(new RegExp(`  ${name}: "?([^",]+)"?,`))![1];

/** In transformers.js's place: its two names, an answer after some milliseconds, and what it was asked for. */
const library = (label: string, ms: number) => `
  export class RawImage {
    static async fromBlob(blob) {
      const { width, height } = await createImageBitmap(blob);
      return { width, height };
    }
  }
  export async function pipeline(task, model, options) {
    if (task !== "image-classification" || model !== "${constant("model")}") throw new Error("asked for " + task + " " + model);
    if (options.dtype !== "fp32" || options.device !== "wasm") throw new Error("asked for " + JSON.stringify(options));
    return async ({ width }, { top_k }) => {
      await new Promise((resolve) => setTimeout(resolve, ${ms}));
      return Array.from({ length: top_k }, () => ({ label: width ? "${label}" : "nothing", score: 0.9 }));
    };
  }`;

/** A server of another origin that sends what a CDN's does: the module, for every page that asks. */
async function serveCdn(body: string): Promise<{ server: Server; address: string }> {
  const server = createServer((_, response) => {
    response.setHeader("Content-Type", "text/javascript");
    response.setHeader("Access-Control-Allow-Origin", "*");
    response.setHeader("Cross-Origin-Resource-Policy", "cross-origin");
    response.end(body);
  });
  return { server, address: `${await listen(server)}/transformers.min.js` };
}

/** @param answer without one, nothing listens at the address */
async function withPeer(
  answer: string | undefined,
  work: (demo: Demo) => Promise<void>,
  chrome?: DemoOptions["chrome"],
): Promise<void> {
  const { server, address } = await serveCdn(answer ?? "");
  if (answer === undefined) await closeServer(server);
  const demo = await openDemo({
    url: "about:blank",
    viewport: { width: 360, height: 740 },
    serviceWorkers: "block", // its requests would pass the route by
    ...(chrome && { chrome }),
  });
  try {
    await demo.page
      .context()
      .route("**/peer.js", (route) =>
        route.fulfill({ contentType: "text/javascript", body: SOURCE.replace(constant("address"), address) }),
      );
    await demo.page.goto(demo.served);
    await expectAnswer(demo.page);
    await work(demo);
  } finally {
    await demo.close();
    if (server.listening) await closeServer(server);
  }
}

function closeServer(server: Server): Promise<void> {
  server.closeAllConnections();
  return new Promise((resolve) => server.close(() => resolve()));
}

/** Until it is done, or says why it is not. */
async function compare(page: Page): Promise<void> {
  await page.click("#peer");
  const said = async () => `${await page.textContent("#peer-status")}${await page.textContent("#peer-error")}`;
  await expect.poll(said, { timeout: 120_000 }).toMatch(/^Done|try again/);
  expect(await said()).toBe("Done.");
}

test("the page says what the comparison downloads before it does, and loads nothing from elsewhere until then", () =>
  withPeer(undefined, async ({ page }) => {
    const total = Math.round(Number(constant("weightsMb")) + Number(constant("codeMb")));
    expect(await page.textContent("#peer-cost")).toContain(`about ${total} MB from jsdelivr.net and huggingface.co`);
    const origins = await page.evaluate(() =>
      performance.getEntriesByType("resource").map(({ name }) => new URL(name).origin),
    );
    expect(new Set(origins)).toEqual(new Set([new URL(page.url()).origin]));
  }));

test("figures that were measured elsewhere are said to be, and are those of docs/peers.md", () =>
  withPeer(undefined, async ({ page }) => {
    const text = (await page.textContent("#peer-elsewhere"))!.replaceAll(/\s+/g, " ");
    expect(text).toMatch(/^ ?Measured elsewhere, not on this device/);
    const rows = readFileSync(new URL("../../docs/peers.md", import.meta.url), "utf8").split("\n");
    const ms = (...cells: string[]) => {
      const row = rows.map((line) => line.split("|").map((cell) => cell.trim()));
      return row.find((found) => cells.every((cell, i) => found[i + 1] === cell))![5].split(" ")[0];
    };
    expect([...text.matchAll(/([\d.]+) ms/g)].map(([, value]) => value)).toEqual([
      ms("transformers.js", "dense", "f32", "1"),
      ms("transformers.js", "dense", "int8", "1"),
      ms("SlimViT simd", "slim", "int8", "1"),
    ]);
  }));

test("both run on the picture, agree by the label's first name, and the ratio is that of the milliseconds shown", () =>
  withPeer(library("giant panda, panda, panda bear", 400), async ({ page, complaints }) => {
    await compare(page);
    expect(await page.textContent("#peer-agree")).toBe("Both say giant panda.");
    const ms = async (id: string) => Number((await page.textContent(id))!.match(/^([\d.]+) ms$/)![1]);
    const [ours, theirs] = [await ms("#peer-our-ms"), await ms("#peer-their-ms")];
    expect(theirs).toBeGreaterThanOrEqual(399);
    const rounding = (value: number) => (value < 9.95 ? 0.05 : 0.5);
    const ratio = Number((await page.textContent("#peer-ratio"))!.match(/^([\d.]+) ×$/)![1]);
    expect(ratio).toBeGreaterThanOrEqual((theirs - rounding(theirs)) / (ours + rounding(ours)) - 0.05);
    expect(ratio).toBeLessThanOrEqual((theirs + rounding(theirs)) / (ours - rounding(ours)) + 0.05);
    const size = await page
      .locator("#peer-ratio")
      .evaluate((node) => Number.parseFloat(getComputedStyle(node).fontSize));
    expect(size).toBeGreaterThanOrEqual(40); // large
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(360);
    expect(complaints).toEqual([]);
  }));

test("where the browser has WebNN its milliseconds stand beside, and elsewhere nothing is said of it", async () => {
  const answer = library("giant panda, panda, panda bear", 40);
  await withPeer(answer, async ({ page }) => {
    await compare(page);
    expect(await page.isVisible("#peer-webnn")).toBe(false);
    expect(await page.textContent("#peer-how")).not.toMatch(/WebNN/);
  });
  const executablePath = findWebnnChromium();
  if (!executablePath) throw new Error('No Chromium with WebNN was found; "npm run setup" brings one.');
  const work = async ({ page }: Demo) => {
    await compare(page);
    expect(await page.textContent("#peer-how")).not.toMatch(/WebNN did not open/);
    expect(await page.textContent("#peer-webnn-ms")).toMatch(/^[\d.]+ ms$/);
    expect(await page.isVisible("#peer-webnn")).toBe(true);
  };
  await withPeer(answer, work, { executablePath, args: WEBNN_FLAGS });
});

test("a disagreement is said with both labels", () =>
  withPeer(library("lesser panda, red panda", 1), async ({ page }) => {
    await compare(page);
    expect(await page.textContent("#peer-agree")).toBe(
      "They disagree: SlimViT says giant panda, transformers.js says lesser panda, red panda.",
    );
  }));

test("a CDN that cannot be reached is said in one sentence, and the page goes on", () =>
  withPeer(undefined, async ({ page }) => {
    await page.click("#peer");
    await expect
      .poll(() => page.textContent("#peer-error"), { timeout: 60_000 })
      .toMatch(
        /^transformers\.js or its model could not be loaded, so nothing was compared: .*\. Check the connection .* try again\.$/,
      );
    expect(await page.isVisible("#peer-result")).toBe(false);
    expect(await page.textContent("#peer")).toBe("Compare again");
    await page.click("[data-sample=dalmatian]");
    await expect.poll(() => page.textContent("#verdict"), { timeout: 60_000 }).toMatch(/^dalmatian/);
  }));

test("a comparison can be stopped", () =>
  withPeer(library("giant panda", 1000), async ({ page }) => {
    await page.click("#peer");
    await expect.poll(() => page.textContent("#peer")).toBe("Stop");
    await page.click("#peer");
    await expect.poll(() => page.textContent("#peer-status"), { timeout: 60_000 }).toBe("Stopped.");
    expect(await page.textContent("#peer-error")).toBe("");
  }));

test("the first screen's figures of transformers.js are those of docs/peers.json", () => {
  const { rows } = JSON.parse(readFileSync(new URL("../../docs/peers.json", import.meta.url), "utf8")) as PeersFile;
  const rowOf = (name: string, network: string, dtype: string) =>
    rows.find((row) => row.name === name && row.network === network && row.dtype === dtype && row.threads === 1)!;
  const theirs = rowOf("transformers.js", "dense", "f32");
  const ours = rowOf("SlimViT simd", "slim", "int8");
  const [, usual] = readFileSync(new URL("../../demo/index.html", import.meta.url), "utf8").match(
    /id="usual">(.*)<\/p>/,
  )!;
  expect([...usual.matchAll(/<strong>(.*?)<\/strong>/g)].map(([, figure]) => figure)).toEqual([
    `${(theirs.msMedian! / ours.msMedian!).toFixed(1)} ×`,
    `${Math.round(theirs.bytes! / 1e6)} MB`,
  ]);
});
