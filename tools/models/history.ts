/** The figures that are measured over the steps of a training: their names in the history, and their texts. */
import { percent } from "../shared/terminal.ts";

/**
 * Shares of the pictures, and of an embedding model the mean cosine, by their names in the history. Where several networks are
 * trained together, these are the means over them, and each one's own have its name behind.
 */
export type Accuracy = { [key in Measure | `${Measure}.${string}`]?: number };

type Measure = "val.top1" | "val.agreement" | "val.cosine" | "val.divergence";

/** Shares and cosines, where more is better. The history also has the divergence from the teacher, in nats. */
export const MEASURES: [key: Measure, what: string][] = [
  ["val.top1", "top-1"],
  ["val.agreement", "agreement with the teacher"],
  ["val.cosine", "cosine with the teacher's embeddings"],
];

/** "top-1 81.2 % (large 83.0 %, small 79.4 %), agreement with the teacher 90.1 %, divergence in nats 0.0412" */
export function accuracyText(accuracy: Accuracy): string {
  const text = (key: Measure, what: string, form: (value: number) => string) => {
    const value = accuracy[key];
    if (value === undefined) return [];
    const own = Object.entries(accuracy).filter(([name]) => name.startsWith(`${key}.`));
    const each = own.map(([name, of]) => `${name.slice(key.length + 1)} ${form(of!)}`).join(", ");
    return [`${what} ${form(value)}${each && ` (${each})`}`];
  };
  const shares = MEASURES.flatMap(([key, what]) => text(key, what, percent));
  return [...shares, ...text("val.divergence", "divergence in nats", (nats) => nats.toFixed(4))].join(", ");
}

/** "top-1 81.2 % at the end, 81.5 % at best (step 900), 10.0 % at the start", for each measure that the history has */
export function accuracySummary(history: Record<string, number>[]): string[] {
  return MEASURES.flatMap(([key, what]) => {
    const measured = history.filter((line) => key in line);
    if (!measured.length) return [];
    const [first, last] = [measured[0], measured.at(-1)!];
    const best = measured.reduce((a, b) => (b[key] > a[key] ? b : a));
    const from = first.step === 0 && last !== first ? `, ${percent(first[key])} at the start` : "";
    return [`${what} ${percent(last[key])} at the end, ${percent(best[key])} at best (step ${best.step})${from}`];
  });
}
