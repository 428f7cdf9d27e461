/** examples/extension in Chromium, from the packed packages, as a visitor uses it: the menu of a picture, and the popup. */
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BrowserContext, chromium, type Worker } from "playwright-core";
import sirv from "sirv";
import { afterAll, beforeAll, expect, test } from "vitest";
import { findChromium } from "../../scripts/setup-chromium.mjs";
import { installPacked, ROOT, unpackModel } from "../packages/packed.ts";
import { listen } from "../servers.ts";

const MODEL = "deit-tiny-slim";
const ANSWER = /^umbrella, \d+ ms on simd$/;

let folder: string;
let site: Server;
let context: BrowserContext;
let background: Worker;
let origin: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-extension-"));
  const extension = join(folder, "extension");
  cpSync(join(ROOT, "examples/extension"), extension, { recursive: true });
  installPacked(extension, "slimvit");
  unpackModel(MODEL, join(extension, "node_modules", `slimvit-${MODEL}`));
  const samples = sirv(join(ROOT, "demo/samples"), { dev: true });
  site = createServer((request, response) => {
    if (request.url !== "/") return samples(request, response, () => void response.writeHead(404).end());
    response.setHeader("Content-Type", "text/html");
    response.end('<!doctype html><link rel="icon" href="data:,"><img src="umbrella.jpg">');
  });
  origin = await listen(site);
  context = await chromium.launchPersistentContext(join(folder, "profile"), {
    executablePath: findChromium(),
    ignoreDefaultArgs: ["--disable-extensions"],
    args: ["--no-sandbox", `--disable-extensions-except=${extension}`, `--load-extension=${extension}`],
  });
  background = context.serviceWorkers()[0] ?? (await context.waitForEvent("serviceworker"));
});
afterAll(async () => {
  await context?.close();
  site?.close();
  rmSync(folder, { recursive: true, force: true });
});

test("the menu names a picture of any page, in the background's own thread", async () => {
  const page = await context.newPage();
  await page.goto(origin);
  const choose = async (file: string) => {
    await background.evaluate(async (srcUrl) => {
      const { tabs, contextMenus } = (globalThis as unknown as { chrome: Chrome }).chrome;
      const [tab] = await tabs.query({ url: "http://127.0.0.1/*" });
      contextMenus.onClicked.dispatch({ menuItemId: "name", srcUrl }, tab);
    }, `${origin}/${file}`);
    const answer = page.locator("#slimvit-answer:not(:text-is('…'))");
    await answer.waitFor({ timeout: 60_000 });
    return answer.textContent();
  };
  expect(await choose("umbrella.jpg")).toMatch(ANSWER);
  expect(await choose("nowhere.jpg")).toMatch(/nowhere\.jpg: the server answered 404/);
  expect(await choose("umbrella.jpg")).toMatch(ANSWER);
});

test("the popup names a picked file, in a worker of its own", async () => {
  const page = await context.newPage();
  const errors: string[] = [];
  page.on("pageerror", ({ message }) => errors.push(message));
  page.on("console", (message) => void (message.type() === "error" && errors.push(message.text())));
  await page.goto(new URL("popup.html", background.url()).href);
  await page.setInputFiles("input", join(ROOT, "demo/samples/umbrella.jpg"));
  await expect.poll(() => page.locator("output").textContent(), { timeout: 60_000 }).toMatch(ANSWER);
  expect(page.workers()).toHaveLength(1);
  expect(errors).toEqual([]);
});

/** Of Chromium's extension API. `dispatch` is what a click does. */
interface Chrome {
  tabs: { query(of: { url: string }): Promise<object[]> };
  contextMenus: { onClicked: { dispatch(info: object, tab: object): void } };
}
