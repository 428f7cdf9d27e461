/** Ctrl-C while a search runs. Finished measurements are in their files; one that has begun is made again. */
import { setImmediate } from "node:timers/promises";
import { SlimViTError } from "../../src/errors.ts";
import { commandLine, type Interrupts, watchInterrupts } from "../shared/interrupt.ts";

export class Stops {
  private interrupts?: Interrupts;

  /** @param folder with what was measured */
  constructor(private readonly folder: string) {}

  /** Runs `work`, which Ctrl-C stops at its next `turn`. */
  async during<T>(work: () => Promise<T>): Promise<T> {
    this.interrupts = watchInterrupts("the step that runs now is done");
    try {
      return await work();
    } finally {
      this.interrupts.stop();
      this.interrupts = undefined;
    }
  }

  /**
   * Gives the event loop a turn, in which a signal is seen. Called every second or so.
   * @throws SlimViTError after a signal
   */
  async turn(): Promise<void> {
    await setImmediate();
    if (!this.interrupts?.requested) return;
    throw new SlimViTError(
      "aborted",
      `slim: stopped; ${this.folder} has what was measured. The same command continues:\n  ${commandLine()}`,
    );
  }
}
