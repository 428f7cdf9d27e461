import { expect, test } from "vitest";
import { CAMERA, type Demo, expectBoth, openDemo } from "./demo.ts";
import { LONG_MS, longestTask } from "./tasks.ts";

async function withDemo(
  work: (demo: Demo) => Promise<void>,
  options: Parameters<typeof openDemo>[0] = {},
): Promise<void> {
  const demo = await openDemo(options);
  try {
    await expectBoth(demo.page);
    await work(demo);
  } finally {
    await demo.close();
  }
}

const LIVE_MS = 3000;

test("the camera is classified live by both models, without a task over 50 ms on the page's thread", () =>
  withDemo(
    async (demo) => {
      const { page, complaints } = demo;
      await page.click("#camera");
      await expect.poll(() => page.textContent("#rate"), { timeout: 60_000 }).toMatch(/^\d+\.\d frames\/s$/);
      const firstPaint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime);
      const longest = await longestTask(demo, () => page.waitForTimeout(LIVE_MS));
      const rate = await page.textContent("#rate");
      console.log(
        `first contentful paint ${firstPaint.toFixed(0)} ms; live ${rate}; longest task ${longest.toFixed(1)} ms`,
      );
      expect(longest).toBeLessThanOrEqual(LONG_MS);
      expect(Number((await page.textContent(".side.slim .spread"))!.match(/^(\d+) runs/)![1])).toBeGreaterThan(3);
      await page.click("#camera");
      await expect.poll(() => page.textContent("#verdict"), { timeout: 60_000 }).toMatch(/giant panda/); // the picture from before
      expect(await page.isVisible("#video")).toBe(false);
      expect(complaints).toEqual([]);
    },
    { args: CAMERA },
  ));

test("a camera that is not allowed is explained", () =>
  withDemo(async ({ page }) => {
    await page.click("#camera");
    await expect.poll(() => page.textContent("#picture-error"), { timeout: 60_000 }).toMatch(/camera/i);
    expect(await page.getAttribute("#camera", "aria-pressed")).toBe("false");
  }));

test("workers that are killed are started again with the next picture", () =>
  withDemo(
    async ({ page, complaints }) => {
      const killed = await page.evaluate(() => {
        const { workers } = globalThis as unknown as { workers: Worker[] };
        for (const worker of workers) worker.terminate(); // fires no event
        return workers.splice(0).length;
      });
      expect(killed).toBeGreaterThanOrEqual(2); // two models at once
      await page.click("[data-sample=dalmatian]");
      await expect.poll(() => page.textContent(".side.slim .classes"), { timeout: 60_000 }).toMatch(/dalmatian/);
      await expect.poll(() => page.textContent(".side.dense .classes"), { timeout: 60_000 }).toMatch(/dalmatian/);
      expect(complaints).toEqual([]);
    },
    {
      before: () => {
        const workers: Worker[] = [];
        const Original = Worker;
        Object.assign(globalThis, {
          workers,
          Worker: class extends Original {
            constructor(...args: ConstructorParameters<typeof Worker>) {
              super(...args);
              workers.push(this);
            }
          },
        });
      },
    },
  ));
test("the benchmark measures every engine on both models, can be stopped, and its table is copied", () =>
  withDemo(
    async ({ page, complaints, browser }) => {
      await browser.contexts()[0].grantPermissions(["clipboard-read", "clipboard-write"]);
      await page.click("#bench");
      await expect.poll(() => page.textContent("#bench")).toBe("Stop");
      await page.click("#bench");
      await expect.poll(() => page.textContent("#bench-status"), { timeout: 60_000 }).toBe("Stopped.");
      await page.click("#bench");
      await expect.poll(() => page.textContent("#bench-status"), { timeout: 400_000, interval: 500 }).toBe("Done.");
      const table = (await page.textContent("#bench-table tbody"))!;
      for (const engine of ["simd", "onnx-wasm", "reference"]) expect(table).toContain(engine);
      await page.click("#copy");
      const copied = await page.evaluate(() => navigator.clipboard.readText());
      expect(copied).toMatch(/^\| Model \| Engine .*\n\| --- .*\n(\| deit-tiny.* \d+\.\d\d \|\n)+/);
      expect(copied).toMatch(/Chrom\w+ \d+.*cores/);
      expect(complaints).toEqual([]);
    },
    { viewport: { width: 1280, height: 800 } },
  ));
