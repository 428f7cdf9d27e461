// npm run screenshots: the demo in Chromium, on a desktop and a phone, light and dark, into docs/demo-*.webp.
// Run npm run build first.
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { findChromium } from "../scripts/setup-chromium.mjs";
import { serveDemo } from "./serve.mjs";

const sharp = createRequire(new URL("../tools/package.json", import.meta.url))("sharp");
const out = (name) => fileURLToPath(new URL(`../docs/demo-${name}.webp`, import.meta.url));

const SHOTS = [
  { name: "desktop-light", viewport: { width: 1280, height: 900 }, colorScheme: "light", from: "body" },
  { name: "desktop-dark", viewport: { width: 1280, height: 720 }, colorScheme: "dark", from: ".insight" },
  { name: "phone-dark", viewport: { width: 390, height: 844 }, colorScheme: "dark", from: "body" },
];

const { server, url } = await serveDemo();
const browser = await chromium.launch({ executablePath: findChromium(), args: ["--no-sandbox"] });
for (const { name, from, ...context } of SHOTS) {
  const page = await browser.newPage(context);
  await page.goto(url);
  await page.waitForFunction(() => /\d ms/.test(document.querySelector("#ms").textContent));
  await page.waitForTimeout(4000); // the runs for the statistics
  await page.locator("#depth").fill("10");
  await page.locator("#depth").blur();
  await page.evaluate((selector) => scrollTo(0, document.querySelector(selector).offsetTop - 16), from);
  await page.waitForTimeout(500); // the fade
  await sharp(await page.screenshot())
    .webp({ quality: 82 })
    .toFile(out(name));
  console.log(`screenshots: docs/demo-${name}.webp`);
  await page.close();
}
await browser.close();
server.closeAllConnections();
server.close();
