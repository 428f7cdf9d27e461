/** The time limit of training and the time used so far, which is counted across interruptions. */
import { existsSync, readFileSync } from "node:fs";
import { InvalidArgumentError } from "commander";
import { writeFileAtomic } from "../models/folders.ts";

/** Seconds, or whether slim may decide. */
export type TrainChoice = "auto" | "no" | number;

/** The longest training with `auto`, in seconds. */
const AUTO_SECONDS = 2 * 3600;

/** Reads "auto", "no", "2h", "30m", "1.5h". @throws InvalidArgumentError */
export function trainChoice(value: unknown): TrainChoice {
  if (value === "auto" || value === "no") return value;
  const match = String(value).match(/^(\d+(?:\.\d+)?)\s*(h|m|min)$/);
  const seconds = match ? Number(match[1]) * (match[2] === "h" ? 3600 : 60) : 0;
  if (seconds > 0) return seconds;
  throw new InvalidArgumentError('expected auto, no, or a time such as "2h" or "30m".');
}

export class TrainingClock {
  private spent: number;

  constructor(
    private readonly choice: TrainChoice,
    private readonly file: string,
  ) {
    this.spent = existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as { spent: number }).spent : 0;
  }

  /** Whether the user gave a time, which is then to be used. */
  get isGiven(): boolean {
    return typeof this.choice === "number";
  }

  get total(): number {
    return this.choice === "no" ? 0 : this.choice === "auto" ? AUTO_SECONDS : this.choice;
  }

  get left(): number {
    return Math.max(0, this.total - this.spent);
  }

  /** Counts what `work` takes, also where it is stopped. */
  async during<T>(work: () => Promise<T>): Promise<T> {
    const [started, before] = [performance.now(), this.spent];
    const count = () => {
      this.spent = before + (performance.now() - started) / 1000;
      writeFileAtomic(this.file, `${JSON.stringify({ spent: this.spent })}\n`);
    };
    const timer = setInterval(count, SAVE_MS);
    try {
      return await work();
    } finally {
      clearInterval(timer);
      count();
    }
  }
}

const SAVE_MS = 30_000;
