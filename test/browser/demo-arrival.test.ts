/** How the demo's page arrives on a phone: soon, without moving, and without holding up the page's thread. */
import { expect, test } from "vitest";
import { expectAnswer, openDemo } from "./demo.ts";
import { LONG_MS, longestTask } from "./tasks.ts";

const PHONE = { viewport: { width: 360, height: 740 } };
/** A slow mobile network, and a processor of a quarter of the speed. */
const NETWORK = { offline: false, latency: 150, downloadThroughput: 1.6e6 / 8, uploadThroughput: 0.75e6 / 8 };
const CPU_SLOWDOWN = 4;
const LARGEST_PAINT_MS = 1500;

interface Seen {
  moved: number;
  /** the largest thing painted, the latest last */
  painted: { ms: number; id: string }[];
}

/** In the page, before its own scripts. */
function watch(): void {
  const seen: Seen = { moved: 0, painted: [] };
  Object.assign(globalThis, { seen });
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries() as (PerformanceEntry & { value: number })[]) seen.moved += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
  new PerformanceObserver((list) => {
    for (const { startTime, element } of list.getEntries() as (PerformanceEntry & { element?: Element })[])
      seen.painted.push({ ms: startTime, id: element?.id ?? "" });
  }).observe({ type: "largest-contentful-paint", buffered: true });
}

test("on a slow phone the picture is painted within 1.5 s", async () => {
  const demo = await openDemo({ url: "about:blank", before: watch, ...PHONE });
  try {
    const cdp = await demo.page.context().newCDPSession(demo.page);
    await cdp.send("Network.enable");
    await cdp.send("Network.emulateNetworkConditions", NETWORK);
    await cdp.send("Emulation.setCPUThrottlingRate", { rate: CPU_SLOWDOWN });
    await demo.page.goto(demo.served);
    await demo.page.waitForTimeout(2 * LARGEST_PAINT_MS);
    const { painted } = await demo.page.evaluate(() => (globalThis as unknown as { seen: Seen }).seen);
    console.log(`largest contentful paint ${painted.at(-1)!.ms.toFixed(0)} ms`);
    expect(painted.at(-1)!.id).toBe("preview");
    expect(painted.at(-1)!.ms).toBeLessThanOrEqual(LARGEST_PAINT_MS);
  } finally {
    await demo.close();
  }
});

test.each([PHONE, { viewport: { width: 1280, height: 800 } }])(
  "nothing moves and no task is long until the answer is there: $viewport.width px",
  async (context) => {
    const demo = await openDemo({ url: "about:blank", before: watch, ...context });
    try {
      const longest = await longestTask(demo, async () => {
        await demo.page.goto(demo.served);
        await expectAnswer(demo.page);
      });
      const { moved } = await demo.page.evaluate(() => (globalThis as unknown as { seen: Seen }).seen);
      console.log(`longest task ${longest.toFixed(1)} ms; layout shift ${moved.toFixed(4)}`);
      expect(moved).toBeLessThanOrEqual(0.01); // the headline's own words change
      expect(longest).toBeLessThanOrEqual(LONG_MS);
    } finally {
      await demo.close();
    }
  },
);
