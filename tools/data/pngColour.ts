/**
 * Colours of a PNG without an ICC profile, by its chunks gAMA, cHRM, sRGB and cICP. Browsers apply them and sharp does
 * not, so it is done here.
 * @see PNG Specification, Third Edition, 11.3.2 — https://www.w3.org/TR/png-3/#11addnlcolinfo
 */

type Matrix = number[][];

export interface PngColours {
  /** light of a sample, both in 0..1 */
  toLight: (sample: number) => number;
  /** x and y of white, red, green and blue */
  chromaticities: number[];
}

const SRGB = [0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06];
const DISPLAY_P3 = [0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06];
const BT2020 = [0.3127, 0.329, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046];

/** Code points of cICP (ITU-T H.273) that name a plain colour space; the others are of films and of HDR. */
const CICP_PRIMARIES: Record<number, number[]> = { 1: SRGB, 9: BT2020, 12: DISPLAY_P3 };
const CICP_TRANSFERS: Record<number, PngColours["toLight"]> = { 8: (v) => v, 13: srgbToLight };

/** gAMA of sRGB's exponent, as most encoders write it; taken for sRGB's own curve. */
const USUAL_GAMMA = 45455;

/**
 * @returns undefined where samples are sRGB already, or where an ICC profile says what they are; "other" for colours that
 *   every decoder maps in its own way
 */
export function pngColours(file: Uint8Array): PngColours | "other" | undefined {
  const chunks = chunksBefore(file, "IDAT");
  const cicp = chunks.get("cICP");
  if (cicp) {
    const [primaries, transfer] = cicp;
    if (primaries === 1 && transfer === 13) return undefined;
    const chromaticities = CICP_PRIMARIES[primaries] as number[] | undefined;
    const toLight = CICP_TRANSFERS[transfer] as PngColours["toLight"] | undefined;
    return chromaticities && toLight ? { chromaticities, toLight } : "other";
  }
  if (chunks.has("iCCP") || chunks.has("sRGB")) return undefined;
  const [gamma] = numbersOf(chunks.get("gAMA"));
  if (!gamma) return undefined; // cHRM alone says nothing of how samples are encoded
  const chrm = numbersOf(chunks.get("cHRM")).map((value) => value / 100000);
  const chromaticities = chrm.length === 8 && chrm.every((value) => value > 0 && value < 1) ? chrm : SRGB;
  if (gamma === USUAL_GAMMA && chromaticities === SRGB) return undefined;
  const exponent = 100000 / gamma;
  return { chromaticities, toLight: (v) => v ** exponent };
}

function chunksBefore(file: Uint8Array, last: string): Map<string, Uint8Array> {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const chunks = new Map<string, Uint8Array>();
  for (let at = 8; at + 12 <= file.length; ) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...file.subarray(at + 4, at + 8));
    if (kind === last || at + 12 + length > file.length) break;
    if (!chunks.has(kind)) chunks.set(kind, file.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  return chunks;
}

function numbersOf(chunk: Uint8Array | undefined): number[] {
  if (!chunk) return [];
  const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.byteLength);
  return Array.from({ length: chunk.length >> 2 }, (_, k) => view.getUint32(4 * k));
}

/** @param data RGBA, changed in place */
export function toSrgb(data: Uint8Array | Uint8ClampedArray, { toLight, chromaticities }: PngColours): void {
  const matrix = product(inverse(toD50(SRGB)), toD50(chromaticities));
  const light = Float64Array.from({ length: 256 }, (_, k) => toLight(k / 255));
  for (let at = 0; at < data.length; at += 4) {
    const [r, g, b] = [light[data[at]], light[data[at + 1]], light[data[at + 2]]];
    for (let c = 0; c < 3; c++) {
      const value = matrix[c][0] * r + matrix[c][1] * g + matrix[c][2] * b;
      data[at + c] = Math.round(255 * lightToSrgb(Math.min(1, Math.max(0, value))));
    }
  }
}

function srgbToLight(v: number): number {
  return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
}

function lightToSrgb(v: number): number {
  return v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055;
}

const BRADFORD = [
  [0.8951, 0.2664, -0.1614],
  [-0.7502, 1.7135, 0.0367],
  [0.0389, -0.0685, 1.0296],
];
const D50 = [0.9642, 1, 0.8249];

/** RGB of these chromaticities → XYZ, its white moved to D50, where ICC profiles meet. */
function toD50([wx, wy, ...primaries]: number[]): Matrix {
  const columns = [0, 2, 4].map((k) => xyzOf(primaries[k], primaries[k + 1]));
  const xyz = [0, 1, 2].map((row) => columns.map((column) => column[row]));
  const white = xyzOf(wx, wy);
  const gains = times(inverse(xyz), white);
  const scaled = xyz.map((row) => row.map((value, k) => value * gains[k]));
  const [from, to] = [times(BRADFORD, white), times(BRADFORD, D50)];
  const adapt = BRADFORD.map((row, k) => row.map((value) => (value * to[k]) / from[k]));
  return product(product(inverse(BRADFORD), adapt), scaled);
}

const xyzOf = (x: number, y: number) => [x / y, 1, (1 - x - y) / y];
const times = (matrix: Matrix, vector: number[]) =>
  matrix.map((row) => row.reduce((sum, v, k) => sum + v * vector[k], 0));
const product = (a: Matrix, b: Matrix): Matrix =>
  a.map((row) => [0, 1, 2].map((column) => row.reduce((sum, v, k) => sum + v * b[k][column], 0)));

/** The inverse, by cofactors. */
function inverse(m: Matrix): Matrix {
  const minor = (r: number, c: number) => {
    const [r1, r2] = [0, 1, 2].filter((row) => row !== r);
    const [c1, c2] = [0, 1, 2].filter((column) => column !== c);
    return ((r + c) % 2 ? -1 : 1) * (m[r1][c1] * m[r2][c2] - m[r1][c2] * m[r2][c1]);
  };
  const determinant = [0, 1, 2].reduce((sum, c) => sum + m[0][c] * minor(0, c), 0);
  return [0, 1, 2].map((r) => [0, 1, 2].map((c) => minor(c, r) / determinant));
}
