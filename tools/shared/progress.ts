import cliProgress from "cli-progress";
import { say } from "./terminal.ts";

export interface Progress {
  /** @param figures shown beside the bar, as given */
  update(done: number, figures: string): void;
  /** Prints a line, above the bar where there is one. */
  note(line: string): void;
  stop(): void;
}

const LOG_SECONDS = 30;
/** The first step is slower than the others: what it compiles and allocates is not done again. */
const WARM_UP = 1;

/**
 * A bar on a terminal. Elsewhere it prints a line as soon as the second step shows how long all will take, then two
 * lines a minute, so that a log stays readable.
 */
export function startProgress(what: string, total: number, first = 0): Progress {
  const timeLeft = timer(total, first);
  if (process.stderr.isTTY) {
    const bar = new cliProgress.SingleBar({
      format: `${what} {bar} {value}/{total} {figures}`,
      stream: process.stderr,
      hideCursor: true,
    });
    bar.start(total, first, { figures: "" });
    return {
      update: (done, figures) => bar.update(done, { figures: `${figures}  ${timeLeft(done)}` }),
      note(line) {
        process.stderr.write("\r\x1b[K"); // the bar is drawn again below the line
        say(line);
        bar.render();
      },
      stop: () => bar.stop(),
    };
  }
  let last = performance.now();
  return {
    update(done, figures) {
      const left = timeLeft(done);
      const now = performance.now();
      const isFirstEstimate = done - first === WARM_UP + 1;
      if (!isFirstEstimate && now - last < LOG_SECONDS * 1000 && done < total) return;
      last = now;
      say(`${what}: ${done}/${total}  ${figures}  ${left}`);
    },
    note: say,
    stop() {},
  };
}

/** @returns the time that is left, in words, from the times of the steps after the first; to be called at each step */
export function timer(total: number, first: number, now = () => performance.now()): (done: number) => string {
  let [began, from] = [now(), first];
  let warm = false;
  return (done) => {
    if (!warm && done - first >= WARM_UP) {
      warm = true;
      if (done < total) {
        const seconds = (now() - began) / 1000 / Math.max(1, done - from);
        [began, from] = [now(), done];
        return inWords(seconds * (total - done));
      }
    }
    return inWords(((now() - began) / 1000 / Math.max(1, done - from)) * (total - done));
  };
}

function inWords(seconds: number): string {
  if (seconds > 5400) return `${(seconds / 3600).toFixed(1)} h left`;
  return seconds > 90 ? `${Math.round(seconds / 60)} min left` : `${Math.round(seconds)} s left`;
}
