/** Ctrl-C, and the signal with which schedulers end a job, as a request to stop at a point where nothing is lost. */
import { say } from "./terminal.ts";

export interface Interrupts {
  /** whether one has come */
  readonly requested: boolean;
  /** Signals end the process again, as they do by default. */
  stop(): void;
}

const SIGNALS = ["SIGINT", "SIGTERM"] as const;
/** A shell's exit status for a process that Ctrl-C has ended. */
export const INTERRUPTED = 130;

/** @param what is done before the process ends: "the checkpoint is written" */
export function watchInterrupts(what: string): Interrupts {
  let requested = false;
  const onSignal = () => {
    if (requested) process.exit(INTERRUPTED);
    requested = true;
    say(`stopping when ${what}; a second signal stops at once`);
  };
  for (const signal of SIGNALS) process.on(signal, onSignal);
  return {
    get requested() {
      return requested;
    },
    stop() {
      for (const signal of SIGNALS) process.off(signal, onSignal);
    },
  };
}

/** The command line that this process was started with, for people to paste. */
export function commandLine(argv = process.argv.slice(2)): string {
  const quoted = (word: string) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);
  return ["slimvit", ...argv].map(quoted).join(" ");
}
