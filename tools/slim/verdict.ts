/** The verdict in words: before and after, and what a slightly smaller or larger model would cost. */
import { percent, si } from "../shared/terminal.ts";
import type { Outcome, PairedTop1, Row } from "./outcome.ts";

/** Small models take microseconds. */
export const milliseconds = (ms: number) => ms.toFixed(ms < 1 ? 3 : 1);
const timeText = ({ ms, dtype }: Row) => `${milliseconds(ms)} ms (${dtype})`;
const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(2)} MB`;
const signed = (share: number) => `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(2)}`;

export function pairedText({ n, dense, slim, difference, interval }: PairedTop1): string {
  const [low, high] = interval.map(signed);
  return `${percent(dense)} → ${percent(slim)} of ${n} (${signed(difference)} points, 95 % interval ${low} to ${high})`;
}

/** Lines for the terminal, the first one the sentence that counts. */
export function verdictLines(outcome: Outcome): string[] {
  const { dense, slim, val, test, notes, unlabelled, target, frontier } = outcome;
  const what = unlabelled ? "the dense model's best class" : "top-1";
  return [
    headline(outcome),
    `  ${what} on val: ${pairedText(val)}`,
    test
      ? `  ${what} on test: ${pairedText(test)}`
      : "  the data has no test pictures; val chose the model, so new pictures may do a little worse",
    `  MACs: ${si(dense.macs)} → ${si(slim.macs)} (${percent(slim.macsShare)})`,
    `  file: ${megabytes(dense.bytes)} (${dense.dtype}) → ${megabytes(slim.bytes)} (${slim.dtype})`,
    `  time an image here, one thread of engine simd: ${timeText(dense)} → ${timeText(slim)}`,
    `  made of: ${slim.what}`,
    `  target: ${target}`,
    ...notes.map((note) => `  ${note}`),
    ...frontierLines(frontier),
    ...tradeLines(frontier),
  ];
}

export function headline({ out, dense, slim, val, unlabelled }: Outcome): string {
  const faster = dense.ms / slim.ms;
  const cost = Math.max(0, -100 * val.difference);
  const loses =
    val.difference >= 0
      ? "loses nothing on the val pictures"
      : `loses ${cost.toFixed(2)} points${unlabelled ? " of agreement" : ""} on val`;
  return `${out}: ${percent(slim.macsShare)} of the MACs, ${faster.toFixed(1)} times as fast, ${loses}`;
}

function frontierLines(frontier: Row[]): string[] {
  const cells = frontier.map((row) => [
    row.isTaken ? "→" : " ",
    percent(row.macsShare),
    `${milliseconds(row.ms)} ms`,
    megabytes(row.bytes),
    percent(row.top1),
    `${signed(row.difference)} (${signed(row.interval[0])} to ${signed(row.interval[1])})`,
    `${row.what}, ${row.dtype}`,
  ]);
  const head = ["", "MACs", "time", "file", "top-1", "points to dense", "made of"];
  const widths = head.map((title, c) => Math.max(title.length, ...cells.map((row) => row[c].length)));
  const line = (row: string[]) =>
    `  ${row
      .map((cell, c) => cell.padEnd(widths[c]))
      .join("  ")
      .trimEnd()}`;
  return ["  the frontier:", ...[head, ...cells].map(line)];
}

/** The gains and costs of the two models next to the chosen one. */
export function tradeLines(frontier: Row[]): string[] {
  const at = frontier.findIndex(({ isTaken }) => isTaken);
  const taken = frontier[at];
  if (!taken) return [];
  const beside = [...frontier.slice(Math.max(0, at - 2), at), ...frontier.slice(at + 1, at + 3)];
  return beside.map((row) => {
    const points = 100 * (row.top1 - taken.top1);
    const time = row.ms - taken.ms;
    const gain =
      points === 0 ? "the same top-1" : `${Math.abs(points).toFixed(1)} points ${points > 0 ? "more" : "less"}`;
    const price = `${milliseconds(Math.abs(time))} ms ${time > 0 ? "more" : "less"}`;
    return `  ${gain} for ${price}: ${row.what}, ${row.dtype}`;
  });
}
