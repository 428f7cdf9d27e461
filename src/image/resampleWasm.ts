/** The WebAssembly form of `resample` in resample.ts: the same bytes in a fraction of the time. */
import { binary } from "../engines/simd/generated/resample.ts";
import { inflate } from "../loading/inflate.ts";
import { type Resample, resample, type Taps, taps } from "./resample.ts";

/** assembly/resample.ts; all are addresses and lengths in bytes but `rows`, `columns`, `groups` and `pairs`. */
interface Kernels {
  memory: WebAssembly.Memory;
  across(
    from: number,
    fromBytes: number,
    rows: number,
    to: number,
    columns: number,
    table: number,
    groups: number,
  ): void;
  down(from: number, to: number, rows: number, bytes: number, table: number, pairs: number): void;
}

/** Source rows are copied in so many bytes at a time, so that a large picture is never in memory twice. */
const BAND_BYTES = 1 << 18;
const PAGE_BYTES = 65_536;
/**
 * The largest memory in bytes. Memory that has grown is never given back, so a picture that needs more, such as a very
 * long strip, takes the plain form.
 */
const MOST_BYTES = 2 ** 26;
const LINE = 64;

let opened: Promise<Resample> | undefined;

/**
 * One resampler for all models, because a call ends before the next begins. The plain form where WebAssembly or its
 * SIMD is missing.
 */
export function openResampler(): Promise<Resample> {
  opened ??= inflate(binary)
    .then((bytes) => WebAssembly.instantiate(bytes))
    .then(({ instance }) => resampler(instance.exports as unknown as Kernels))
    .catch(() => resample);
  return opened;
}

function resampler(kernels: Kernels): Resample {
  return (image, source, size, interpolation, window) => {
    const columns = taps(source.width, size.width, window.x, window.width, interpolation);
    const lines = taps(source.height, size.height, window.y, window.height, interpolation);
    const width = columns.end - columns.first[0];
    const height = lines.end - lines.first[0];
    const wide = Math.ceil(window.width / 4) * 4; // the kernel's rows are whole vectors
    const rowBytes = wide * 4;
    const acrossTable = tableOf(columns, wide, 4, 4);
    const downTable = tableOf(lines, window.height, 2, rowBytes);
    const [groups, pairs] = [Math.ceil(columns.most / 4), Math.ceil(lines.most / 2)];
    const bandRows = Math.max(1, Math.floor(BAND_BYTES / (width * 4)));

    let end = 0;
    const take = (bytes: number): number => {
      const at = end;
      end = Math.ceil((at + bytes) / LINE) * LINE;
      return at;
    };
    const acrossAt = take(acrossTable.byteLength);
    const downAt = take(downTable.byteLength);
    const band = take(bandRows * width * 4 + groups * 16); // taps with weight 0 are read past the last row
    const narrow = take((height + 2 * pairs) * rowBytes);
    const out = take(window.height * rowBytes);
    if (end > MOST_BYTES) return resample(image, source, size, interpolation, window);
    const { memory } = kernels;
    const missing = end - memory.buffer.byteLength;
    try {
      if (missing > 0) memory.grow(Math.ceil(missing / PAGE_BYTES));
    } catch {
      return resample(image, source, size, interpolation, window); // in less memory
    }

    const bytes = new Uint8Array(memory.buffer);
    new Int32Array(memory.buffer, acrossAt).set(acrossTable);
    new Int32Array(memory.buffer, downAt).set(downTable);
    const left = source.x + columns.first[0];
    const top = source.y + lines.first[0];
    for (let row = 0; row < height; row += bandRows) {
      const rows = Math.min(bandRows, height - row);
      for (let r = 0; r < rows; r++) {
        const from = ((top + row + r) * image.width + left) * 4;
        bytes.set(image.data.subarray(from, from + width * 4), band + r * width * 4);
      }
      kernels.across(band, width * 4, rows, narrow + row * rowBytes, wide, acrossAt, groups);
    }
    kernels.down(narrow, out, window.height, rowBytes, downAt, pairs);
    if (wide === window.width) return bytes.subarray(out, out + window.height * rowBytes);
    const exact = new Uint8Array(window.height * window.width * 4);
    for (let row = 0; row < window.height; row++) {
      const from = out + row * rowBytes;
      exact.set(bytes.subarray(from, from + window.width * 4), row * window.width * 4);
    }
    return exact;
  };
}

/**
 * The table that assembly/resample.ts reads: the offset of the first tap, then the weights' lower and higher words,
 * `size` taps a group.
 */
function tableOf(
  { first, count, weights, stride, most }: Taps,
  entries: number,
  size: 2 | 4,
  step: number,
): Int32Array {
  const groups = Math.ceil(most / size);
  const table = new Int32Array(entries * (1 + groups * size));
  const pair = (a: number, b: number) => (a & 0xffff) | (b << 16);
  let at = 0;
  for (let i = 0; i < entries; i++) {
    table[at++] = i < first.length ? (first[i] - first[0]) * step : 0;
    const weight = (tap: number) => (i < first.length && tap < count[i] ? weights[i * stride + tap] : 0);
    for (let tap = 0; tap < groups * size; tap += size) {
      for (let k = tap; k < tap + size; k += 2) table[at++] = pair(weight(k) & 0x7fff, weight(k + 1) & 0x7fff);
      for (let k = tap; k < tap + size; k += 2) table[at++] = pair(weight(k) >> 15, weight(k + 1) >> 15);
    }
  }
  return table;
}
