import cliProgress from "cli-progress";
import { say } from "./terminal.ts";

export interface Progress {
  /** @param figures shown beside the bar, as given */
  update(done: number, figures: string): void;
  stop(): void;
}

const LOG_SECONDS = 30;

/** A bar on a terminal; elsewhere a line twice a minute, so that a log stays readable. */
export function startProgress(what: string, total: number, first = 0): Progress {
  const started = performance.now();
  const eta = (done: number) => {
    const seconds = Math.round(((performance.now() - started) / 1000 / Math.max(1, done - first)) * (total - done));
    return seconds > 90 ? `${Math.round(seconds / 60)} min left` : `${seconds} s left`;
  };
  if (process.stderr.isTTY) {
    const bar = new cliProgress.SingleBar({
      format: `${what} {bar} {value}/{total} {figures}`,
      stream: process.stderr,
      hideCursor: true,
    });
    bar.start(total, first, { figures: "" });
    return {
      update: (done, figures) => bar.update(done, { figures: `${figures}  ${eta(done)}` }),
      stop: () => bar.stop(),
    };
  }
  let last = started;
  return {
    update(done, figures) {
      const now = performance.now();
      if (now - last < LOG_SECONDS * 1000 && done < total) return;
      last = now;
      say(`${what}: ${done}/${total}  ${figures}  ${eta(done)}`);
    },
    stop() {},
  };
}
