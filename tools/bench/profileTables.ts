/** Times of the synthetic networks → the cost tables of a device. */
import { padded } from "../masks/latency.ts";
import { type DenseShape, type Grid, lastTokens } from "./profileNetworks.ts";

export interface Timed {
  /** of a run that does not time the blocks */
  plainMs: number;
  blockMs: number[];
  /** of the same run, outside of the blocks */
  outsideMs: number;
}

export function tables(shape: DenseShape, grid: Grid, [points, full, few, ...lastOnes]: Timed[][]) {
  const ms = blockTimes(points);
  const { tokens, widths, units } = grid;
  const stride = 2 + widths.length + 1 + units.length;
  const rows = tokens.map((_, k) => {
    const at = (tokens.length - 1 - k) * stride;
    const [drop, empty, ...more] = ms.slice(at, at + stride);
    return {
      drop,
      empty,
      attention: more.slice(0, widths.length),
      one: more[widths.length],
      mlp: more.slice(widths.length + 1),
    };
  });
  const emptyMs = ascending(rows.map(({ empty }) => empty));
  const over = (part: "attention" | "mlp") =>
    rising(rows.map((row) => [0, ...row[part].map((v) => Math.max(0, v - row.empty))]));
  const attentionMs = over("attention");
  const channels = [0, ...widths.map((width) => shape.heads * padded(width))];
  const lasts = lastTokens(grid);
  const lastMs = lastOnes.map((samples) => blockTimes(samples).at(-1)!);
  const patches = (n: number) => n - shape.prefixTokens;
  const share = patches(lasts[0]) / patches(tokens.at(-1)!);
  const [most, some] = [outside(full), outside(few)];
  const slope = share < 1 ? Math.max(0, (most - some) / (1 - share)) : 0;
  const profile = {
    tokens,
    channels,
    units: [0, ...units.map(padded)],
    emptyMs,
    dropMs: rows.map(({ drop, empty }, k) => (k === rows.length - 1 ? 0 : Math.max(0, drop - empty))),
    attentionMs,
    mlpMs: over("mlp"),
    last: {
      tokens: lasts,
      emptyMs: ascending(lasts.map((_, k) => lastMs[2 * k])),
      fullMs: ascending(lasts.map((_, k) => Math.max(lastMs[2 * k], lastMs[2 * k + 1]))),
    },
    outsideMs: [Math.max(0, most - slope), most] as [number, number],
  };
  const headMs = rows.map(({ one, empty }, k) => oneHeadMs(shape, channels, attentionMs[k], one - empty));
  return { ...profile, headMs };
}

/** The extra cost of one more head for the same channels: a block with all heads of one head's channels, against that one head. */
function oneHeadMs({ heads, headDim }: DenseShape, channels: number[], allMs: number[], oneMs: number): number {
  if (heads === 1 || channels.length < 3) return 0; // or not distinguishable from the width
  const [, low, high] = channels;
  const slope = (allMs[2] - allMs[1]) / (high - low);
  const all = allMs[1] + slope * (padded(headDim) - low);
  return Math.max(0, (all - oneMs) / (heads - 1));
}

/** Makes a table rise: more tokens or more width never cost less, so anything else is noise. */
function rising(table: number[][]): number[][] {
  const out = table.map(ascending);
  for (let k = 1; k < out.length; k++) out[k] = out[k].map((v, c) => Math.max(v, out[k - 1][c]));
  return out;
}

function ascending(values: number[]): number[] {
  let most = 0;
  return values.map((v) => (most = Math.max(most, v)));
}

export const blockTimes = (samples: Timed[]) =>
  samples[0].blockMs.map((_, i) => undisturbed(samples.map(({ blockMs }) => blockMs[i])));

export const outside = (samples: Timed[]) => undisturbed(samples.map(({ outsideMs }) => outsideMs));

/** The fast decile, because other processes only ever add time. */
const undisturbed = (values: number[]) => quantile(values, 0.1);

export function quantile(values: number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return Math.max(0, sorted[Math.floor(q * sorted.length)]);
}
