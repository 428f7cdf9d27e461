// npm run screenshots [-- NAME…]: the demo in Chromium on a desktop, light and dark, into docs/demo-desktop-*.webp, and a short animation
// of it on a phone, docs/demo.webp. They are the README's. Run npm run build first.
import { statSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { findChromium } from "../scripts/setup-chromium.mjs";
import { serveDemo } from "./serve.mjs";

const sharp = createRequire(new URL("../tools/package.json", import.meta.url))("sharp");
const out = (name) => fileURLToPath(new URL(`../docs/${name}.webp`, import.meta.url));

const SHOTS = [
  { name: "demo-desktop-light", viewport: { width: 1280, height: 900 }, colorScheme: "light" },
  { name: "demo-desktop-dark", viewport: { width: 1280, height: 900 }, colorScheme: "dark" },
];
const PHONE = { viewport: { width: 360, height: 640 }, deviceScaleFactor: 1.5, colorScheme: "light" };
/** How long a frame of the animation stays, in ms. */
const STAY = { short: 140, step: 450, long: 1600 };
const MOST_BYTES = 2e6;

async function arrive(browser, url, context) {
  const page = await browser.newPage(context);
  page.setDefaultTimeout(180_000); // of a busy machine
  await page.goto(url);
  await page.waitForFunction(() => /\d ms/.test(document.querySelector("#ms").textContent));
  await page.waitForSelector(".copy-code", { state: "attached" }); // the parts below are there
  return page;
}

async function shoot(browser, url, { name, ...context }) {
  const page = await arrive(browser, url, context);
  await page.waitForTimeout(4000); // the runs for the statistics
  await sharp(await page.screenshot())
    .webp({ quality: 82 })
    .toFile(out(name));
  console.log(`screenshots: docs/${name}.webp`);
  await page.close();
}

/** A first answer, two more, two classes taught by a click, a search, and the patches that leave block by block. */
async function animate(browser, url) {
  const page = await arrive(browser, url, PHONE);
  const frames = [];
  const show = async (ms) => frames.push({ png: await page.screenshot(), ms });
  const scrollTo = async (selector) => {
    const [from, to] = await page.evaluate((selector) => {
      const { top } = document.querySelector(selector).getBoundingClientRect();
      return [scrollY, scrollY + top - 12];
    }, selector);
    for (const share of [0.15, 0.5, 0.85, 1]) {
      await page.evaluate((y) => window.scrollTo(0, y), from + (to - from) * share);
      if (share < 1) await show(STAY.short);
    }
    await page.waitForTimeout(300); // what was not laid out yet
    await page.evaluate(
      (selector) => scrollBy(0, document.querySelector(selector).getBoundingClientRect().top - 12),
      selector,
    );
  };
  await page.waitForTimeout(3000); // the runs for the statistics
  await show(STAY.long);
  for (const name of ["dalmatian", "strawberry"]) {
    await page.click(`[data-sample=${name}]`);
    await page.waitForFunction((name) => document.querySelector("#verdict").textContent.startsWith(name), name);
    await page.waitForTimeout(400);
    await show(STAY.long);
  }
  await scrollTo("section:has(> #teach-title)");
  await show(STAY.step);
  await page.click("#teach-samples");
  await page.waitForFunction(() => document.querySelector("#taught-verdict").textContent);
  await page.waitForTimeout(500);
  await scrollTo("section:has(> #teach-title)");
  await show(STAY.long);
  await scrollTo("#teach-frame");
  await show(STAY.long);
  await scrollTo("#search-part");
  await page.click("#search-samples");
  await page.locator('#found button[title="dalmatian"]').click();
  await page.waitForTimeout(500);
  await scrollTo("#search-part");
  await show(STAY.long);
  await scrollTo(".insight");
  await page.waitForTimeout(3000); // a run that explains
  for (let block = 1; block <= 12; block++) {
    await page.locator("#depth").fill(String(block));
    await page.waitForTimeout(350); // the fade
    await show(block === 12 ? STAY.long : STAY.step);
  }
  await page.close();
  await sharp(
    frames.map(({ png }) => png),
    { join: { animated: true } },
  )
    .webp({ quality: 70, effort: 3, loop: 0, delay: frames.map(({ ms }) => ms) })
    .toFile(out("demo"));
  const { size } = statSync(out("demo"));
  console.log(`screenshots: docs/demo.webp, ${frames.length} frames, ${(size / 1e6).toFixed(2)} MB`);
  if (size > MOST_BYTES) throw new Error(`docs/demo.webp has ${size} bytes; expected at most ${MOST_BYTES}.`);
}

const { server, url } = await serveDemo();
const browser = await chromium.launch({ executablePath: findChromium(), args: ["--no-sandbox"] });
try {
  const names = process.argv.slice(2); // all, where none is given
  for (const shot of SHOTS) if (!names.length || names.includes(shot.name)) await shoot(browser, url, shot);
  if (!names.length || names.includes("demo")) await animate(browser, url);
} finally {
  await browser.close();
  server.closeAllConnections();
  server.close();
}
