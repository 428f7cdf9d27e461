// Vitest's part of `npm run robustness`: which file has ended, and when.
import { appendFileSync } from "node:fs";
import { relative } from "node:path";
import type { Reporter, TestModule } from "vitest/node";
import { ROOT } from "./section.ts";

/** A line of the log, beside those of test/robustness/tally.ts. */
export interface Done {
  /** from the repository's root */
  file: string;
  ok: boolean;
  seconds: number;
  /** when it ended, in seconds since 1970 */
  ended: number;
}

export default class implements Reporter {
  onTestModuleEnd(module: TestModule): void {
    const file = relative(ROOT, module.moduleId);
    const ms = module.diagnostic();
    const seconds = (ms.duration + ms.setupDuration + ms.collectDuration) / 1000;
    const done: Done = { file, ok: module.ok(), seconds, ended: Date.now() / 1000 };
    appendFileSync(process.env.ROBUSTNESS_LOG!, `${JSON.stringify(done)}\n`);
    console.log(`robustness: ${file} ${done.ok ? "passed" : "FAILED"} after ${done.seconds.toFixed(0)} s`);
  }
}
