/** How the demo's page arrives on a phone: soon, without moving, and without holding up the page's thread. */
import { expect, test } from "vitest";
import { PHONE, slowDown, watch } from "../../demo/phone.mjs";
import { type Demo, type DemoOptions, expectAnswer, openDemo } from "./demo.ts";
import { LONG_MS, longestTask, SCRIPTS } from "./tasks.ts";

interface Seen {
  moved: number;
  /** the largest thing painted, the latest last */
  painted: { ms: number; id: string }[];
}

const LARGEST_PAINT_MS = 1500;
const VISITS = 5;
/** Additions that the slow phone does in about this time; a machine on which they take longer may paint so much later. */
const PHONE_ADDITIONS = 2e7;
const PHONE_MS = 150;

/** Slows the page down to a phone. @returns how much slower than the phone it is then, by the clock and by its processor: at least 1 */
async function slowToPhone(demo: Demo): Promise<{ clock: number; processor: number }> {
  await slowDown(demo.page);
  const add = () =>
    demo.page.evaluate((count) => {
      const start = performance.now();
      let sum = 0;
      for (let i = 0; i < count; i++) sum += i & 3;
      return sum && performance.now() - start;
    }, PHONE_ADDITIONS);
  const slowness = (ms: number) => Math.max(1, ms / PHONE_MS);
  return { processor: slowness(await longestTask(demo, add)), clock: slowness(await add()) };
}

/** @returns the largest paint of a first visit, and how much slower than the phone the machine is meanwhile */
async function visit(): Promise<Seen["painted"][number] & { slowness: number }> {
  const demo = await openDemo({ url: "about:blank", before: watch, ...PHONE });
  try {
    const { clock: slowness } = await slowToPhone(demo);
    await demo.page.goto(demo.served, { timeout: 120_000 });
    await demo.page.waitForTimeout(2 * slowness * LARGEST_PAINT_MS);
    const seen = await demo.page.evaluate(() => (globalThis as unknown as { seen: Seen }).seen.painted.at(-1));
    return { ...seen!, slowness };
  } finally {
    await demo.close();
  }
}

test("on a slow phone the picture is painted within 1.5 s", async () => {
  // What others do on this machine can only make a visit slower: the page is as fast as its fastest visit.
  const visits: Awaited<ReturnType<typeof visit>>[] = [];
  const onPhone = ({ ms, slowness }: (typeof visits)[number]) => ms / slowness;
  do visits.push(await visit());
  while (onPhone(visits.at(-1)!) > LARGEST_PAINT_MS && visits.length < VISITS);
  const texts = visits.map(({ ms, slowness }) => `${ms.toFixed(0)} (phone × ${slowness.toFixed(1)})`);
  console.log(`largest contentful paint ${texts.join(", ")} ms`);
  for (const { id } of visits) expect(id).toBe("preview");
  expect(Math.min(...visits.map(onPhone))).toBeLessThanOrEqual(LARGEST_PAINT_MS);
});

async function longestOfVisit(context: DemoOptions): Promise<number> {
  const demo = await openDemo({ url: "about:blank", before: watch, ...context });
  try {
    const longest = await longestTask(demo, async () => {
      await demo.page.goto(demo.served);
      await expectAnswer(demo.page);
    });
    const { moved } = await demo.page.evaluate(() => (globalThis as unknown as { seen: Seen }).seen);
    expect(moved).toBeLessThanOrEqual(0.01); // the headline's own words change
    return longest;
  } finally {
    await demo.close();
  }
}

test.each([PHONE, { viewport: { width: 1280, height: 800 } }])(
  "nothing moves and no task is long until the answer is there: $viewport.width px",
  async (context) => {
    // What others do on this machine can only make a visit's tasks longer.
    const visits: number[] = [];
    do visits.push(await longestOfVisit(context));
    while (visits.at(-1)! > LONG_MS && visits.length < VISITS);
    console.log(`longest task ${visits.map((ms) => ms.toFixed(1)).join(", ")} ms`);
    expect(Math.min(...visits)).toBeLessThanOrEqual(LONG_MS);
  },
  120_000,
);

test("on a slow phone no script of the page holds its thread for over 50 ms, until the answer is there and after it", async () => {
  // What others do on this machine can only make a visit slower. What style and layout take, "npm run phone" measures too.
  const visits: number[] = [];
  do {
    const demo = await openDemo({ url: "about:blank", ...PHONE });
    try {
      const { processor } = await slowToPhone(demo);
      const work = async () => {
        await demo.page.goto(demo.served);
        await expectAnswer(demo.page);
        await demo.page.waitForTimeout(3000); // the runs for the statistics
      };
      visits.push((await longestTask(demo, work, SCRIPTS)) / processor);
    } finally {
      await demo.close();
    }
  } while (visits.at(-1)! > LONG_MS && visits.length < VISITS);
  console.log(`longest script on the phone ${visits.map((ms) => ms.toFixed(1)).join(", ")} ms`);
  expect(Math.min(...visits)).toBeGreaterThan(0);
  expect(Math.min(...visits)).toBeLessThanOrEqual(LONG_MS);
}, 300_000);
