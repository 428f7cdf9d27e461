// npm run phone [-- VISITS]: first visits to the demo on a slow phone, in Chromium: 360 × 740, a processor at a quarter of its
// speed, 1.6 Mbit/s. Prints the largest paint, what moved, and the tasks over 50 ms that PerformanceObserver reports, by what
// the visitor does. Exits 1 when the best of the visits misses a goal. Run npm run build first, on a machine that does nothing else.
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { findChromium } from "../scripts/setup-chromium.mjs";
import { serveDemo } from "./serve.mjs";

export const PHONE = { viewport: { width: 360, height: 740 } };
const CPU_SLOWDOWN = 4;
const NETWORK = { offline: false, latency: 150, downloadThroughput: 1.6e6 / 8, uploadThroughput: 0.75e6 / 8 };
const GOALS = { paintMs: 1500, taskMs: 50, shift: 0.01 };
const VISITS = 5;

/** In the page, before its own scripts. */
export function watch() {
  const seen = { moved: 0, painted: [], tasks: [] };
  Object.assign(globalThis, { seen });
  const observe = (type, then) =>
    new PerformanceObserver((list) => list.getEntries().forEach(then)).observe({ type, buffered: true });
  observe("layout-shift", ({ value, hadRecentInput }) => (seen.moved += hadRecentInput ? 0 : value));
  observe("largest-contentful-paint", ({ startTime, element }) =>
    seen.painted.push({ ms: startTime, id: element?.id ?? "" }),
  );
  observe("longtask", ({ startTime, duration }) => seen.tasks.push({ at: startTime, ms: duration }));
}

/** @param {import("playwright-core").Page} page it behaves like a slow phone from now on */
export async function slowDown(page) {
  const cdp = await page.context().newCDPSession(page);
  await cdp.send("Network.enable");
  await cdp.send("Network.emulateNetworkConditions", NETWORK);
  await cdp.send("Emulation.setCPUThrottlingRate", { rate: CPU_SLOWDOWN });
}

const text = (page, selector, pattern) =>
  page.waitForFunction(
    ([selector, pattern]) => new RegExp(pattern).test(document.querySelector(selector).textContent),
    [selector, pattern],
    { timeout: 180_000, polling: 250 },
  );

/** What a visitor does, one after the other. */
const STEPS = {
  arrival: (page) => text(page, "#ms", "\\d ms"),
  "the runs after it": (page) => page.waitForTimeout(4000),
  "another picture": async (page) => {
    await page.click("[data-sample=dalmatian]");
    await text(page, "#verdict", "^dalmatian");
  },
  teaching: async (page) => {
    await page.click("#teach-samples");
    await text(page, "#taught-verdict", ".");
  },
  searching: async (page) => {
    await page.click("#search-samples");
    await text(page, "#search-status", "can be searched");
  },
  "the patches": async (page) => {
    await page.click("#play");
    await page.waitForTimeout(9000);
  },
};

async function visit(browser, url) {
  const context = await browser.newContext(PHONE);
  try {
    const page = await context.newPage();
    await page.addInitScript(watch);
    await slowDown(page);
    await page.goto(url);
    const steps = [];
    let before = 0;
    for (const [name, act] of Object.entries(STEPS)) {
      await act(page);
      await page.waitForTimeout(300); // the observer is called with a delay
      const tasks = await page.evaluate(() => globalThis.seen.tasks.map(({ ms }) => ms));
      steps.push({ name, tasks: tasks.slice(before) });
      before = tasks.length;
    }
    const { moved, painted } = await page.evaluate(() => globalThis.seen);
    return { moved, paintMs: painted.at(-1).ms, steps };
  } finally {
    await context.close();
  }
}

async function main(visits) {
  const { server, url } = await serveDemo();
  const browser = await chromium.launch({ executablePath: findChromium(), args: ["--no-sandbox"] });
  const best = { paintMs: Infinity, moved: Infinity, tasks: new Map() };
  try {
    for (let i = 0; i < visits; i++) {
      const { moved, paintMs, steps } = await visit(browser, url);
      best.paintMs = Math.min(best.paintMs, paintMs);
      best.moved = Math.min(best.moved, moved);
      console.log(`visit ${i + 1}: largest paint ${paintMs.toFixed(0)} ms; layout shift ${moved.toFixed(4)}`);
      for (const { name, tasks } of steps) {
        const longest = Math.max(0, ...tasks);
        best.tasks.set(name, Math.min(best.tasks.get(name) ?? Infinity, longest));
        console.log(`  ${name}: ${tasks.length ? tasks.map((ms) => `${ms} ms`).join(", ") : "no task over 50 ms"}`);
      }
    }
  } finally {
    await browser.close();
    server.closeAllConnections();
    server.close();
  }
  const missed = [
    ...(best.paintMs > GOALS.paintMs ? [`the largest paint took ${best.paintMs.toFixed(0)} ms`] : []),
    ...(best.moved > GOALS.shift ? [`the layout shifted by ${best.moved.toFixed(4)}`] : []),
    ...[...best.tasks].filter(([, ms]) => ms > GOALS.taskMs).map(([name, ms]) => `${name} had a task of ${ms} ms`),
  ];
  console.log(
    missed.length ? `missed in the best visit: ${missed.join("; ")}.` : "every goal is met in the best visit.",
  );
  if (missed.length) process.exitCode = 1;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(Number(process.argv[2] ?? VISITS));
