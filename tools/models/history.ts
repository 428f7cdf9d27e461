/** What is measured over the steps of a training: its names in the history, and the words for it. */
import { percent } from "../shared/terminal.ts";

/** Shares of the pictures, and of an embedding model the mean cosine, by their names in the history. */
export type Accuracy = { "val.top1"?: number; "val.agreement"?: number; "val.cosine"?: number };

export const MEASURES: [key: keyof Accuracy, what: string][] = [
  ["val.top1", "top-1"],
  ["val.agreement", "agreement with the teacher"],
  ["val.cosine", "cosine with the teacher's embeddings"],
];

/** "top-1 81.2 %, agreement with the teacher 90.1 %" */
export const accuracyText = (accuracy: Accuracy): string =>
  MEASURES.flatMap(([key, what]) => {
    const share = accuracy[key];
    return share === undefined ? [] : [`${what} ${percent(share)}`];
  }).join(", ");

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
