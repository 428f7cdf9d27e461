/** Widths in the engine's memory: every part of a row is padded to a multiple of 8 channels, one panel. */

/** Consecutive rows or columns of a tensor, and where they go among padded ones. */
export interface Run {
  from: number;
  to: number;
  count: number;
}

export function pad8(n: number): number {
  return (n + 7) & ~7;
}

export function sum(values: number[]): number {
  return values.reduce((a, b) => a + b, 0);
}

/** Width of parts side by side, each of them padded. */
export function padded(widths: number[]): number {
  return sum(widths.map(pad8));
}

/** Lays out parts of the given widths with each one padded to 8; neighbours that stay neighbours are one run. */
export function runs(widths: number[]): Run[] {
  const found: Run[] = [];
  let from = 0;
  let to = 0;
  for (const count of widths) {
    const last = found.at(-1);
    if (last && last.to + last.count === to) last.count += count;
    else found.push({ from, to, count });
    from += count;
    to += pad8(count);
  }
  return found;
}

/** Values laid out so, zeros between them. */
export function spread(values: Float32Array, widths: number[]): Float32Array {
  const out = new Float32Array(padded(widths));
  for (const { from, to, count } of runs(widths)) out.set(values.subarray(from, from + count), to);
  return out;
}
