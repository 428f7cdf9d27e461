/** How the demo's page arrives on a phone: soon, without moving, and without holding up the page's thread. */
import { expect, test } from "vitest";
import { expectAnswer, openDemo } from "./demo.ts";
import { LONG_MS, longestTask } from "./tasks.ts";

const PHONE = { viewport: { width: 360, height: 740 } };
/** A slow mobile network, and a processor of a quarter of the speed. */
const NETWORK = { offline: false, latency: 150, downloadThroughput: 1.6e6 / 8, uploadThroughput: 0.75e6 / 8 };
const CPU_SLOWDOWN = 4;
const LARGEST_PAINT_MS = 1500;
const VISITS = 5;

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

/** @returns the largest paint of a first visit */
async function visit(): Promise<Seen["painted"][number]> {
  const demo = await openDemo({ url: "about:blank", before: watch, ...PHONE });
  try {
    const cdp = await demo.page.context().newCDPSession(demo.page);
    await cdp.send("Network.enable");
    await cdp.send("Network.emulateNetworkConditions", NETWORK);
    await cdp.send("Emulation.setCPUThrottlingRate", { rate: CPU_SLOWDOWN });
    await demo.page.goto(demo.served);
    await demo.page.waitForTimeout(2 * LARGEST_PAINT_MS);
    return (await demo.page.evaluate(() => (globalThis as unknown as { seen: Seen }).seen.painted.at(-1)))!;
  } finally {
    await demo.close();
  }
}

test("on a slow phone the picture is painted within 1.5 s", async () => {
  // What others do on this machine can only make a visit slower: the page is as fast as its fastest visit.
  const visits: Awaited<ReturnType<typeof visit>>[] = [];
  do visits.push(await visit());
  while (visits.at(-1)!.ms > LARGEST_PAINT_MS && visits.length < VISITS);
  console.log(`largest contentful paint ${visits.map(({ ms }) => ms.toFixed(0)).join(", ")} ms`);
  for (const { id } of visits) expect(id).toBe("preview");
  expect(Math.min(...visits.map(({ ms }) => ms))).toBeLessThanOrEqual(LARGEST_PAINT_MS);
}, 120_000);

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
