/** Whether a page stays answerable: how long the tasks on its main thread are. */
import type { Browser, Page } from "playwright-core";
import { expect } from "vitest";

/** A task longer than this is one that people notice, and that PerformanceObserver("longtask") reports. */
export const LONG_MS = 50;

/** What a trace calls the page's own code, in its category "devtools.timeline". */
export const SCRIPTS = ["EvaluateScript", "v8.evaluateModule", "FunctionCall", "RunMicrotasks", "TimerFire"];

/**
 * The longest task of the main thread of any page while `work` runs, in milliseconds of the processor: what others do on
 * a busy machine stretches the wall clock's, but is not ours.
 *
 * @param names of the events that count; default all tasks
 */
export async function longestTask(
  { browser, page }: { browser: Browser; page: Page },
  work: () => Promise<unknown>,
  names?: readonly string[],
): Promise<number> {
  await browser.startTracing(page, { categories: names ? ["toplevel", "devtools.timeline"] : ["toplevel"] });
  try {
    await work();
  } catch (error) {
    await browser.stopTracing();
    throw error;
  }
  const { traceEvents } = JSON.parse((await browser.stopTracing()).toString()) as { traceEvents: TraceEvent[] };
  const thread = ({ pid, tid }: TraceEvent) => `${pid} ${tid}`;
  const main = new Set(traceEvents.filter((e) => e.args?.name === "CrRendererMain").map(thread));
  const counts = ({ name }: TraceEvent) => !names || names.includes(name);
  const tasks = traceEvents.filter((e) => main.has(thread(e)) && e.tdur !== undefined && counts(e));
  expect(tasks.length).toBeGreaterThan(0); // the trace has them
  return tasks.reduce((longest, { tdur }) => Math.max(longest, tdur! / 1000), 0);
}

interface TraceEvent {
  name: string;
  pid: number;
  tid: number;
  /** microseconds of the thread on the processor */
  tdur?: number;
  args?: { name?: string };
}

/** Puts `observeTasks` into the page: the tasks that PerformanceObserver reports while `work` runs, in milliseconds by the clock. */
export async function watchTasks(page: Page): Promise<void> {
  await page.evaluate(() => {
    const observeTasks = async (work: () => Promise<unknown>) => {
      const tasks: number[] = [];
      const observer = new PerformanceObserver((list) => {
        for (const { duration } of list.getEntries()) tasks.push(duration);
      });
      observer.observe({ type: "longtask" });
      await work();
      await new Promise((resolve) => setTimeout(resolve, 100)); // the observer hears late
      for (const { duration } of observer.takeRecords()) tasks.push(duration);
      observer.disconnect();
      return tasks;
    };
    Object.assign(globalThis, { observeTasks });
  });
}

declare global {
  var observeTasks: (work: () => Promise<unknown>) => Promise<number[]>;
}
