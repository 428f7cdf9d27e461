/** IEEE 754 binary16. Not every supported browser has an array type for it yet. */

/** ES2025's. It converts all at once, which is fast in a page that has just opened, too, where no loop is compiled yet. */
const { Float16Array } = globalThis as {
  Float16Array?: new (buffer: ArrayBufferLike, byteOffset: number, length: number) => ArrayLike<number>;
};

export const MAX_FLOAT16 = 65504;

const floats = new Float32Array(1);
const bits = new Uint32Array(floats.buffer);

/** The f16 nearest to `value`, ties to even; overflows to infinity. */
export function toFloat16(value: number): number {
  floats[0] = value;
  const b = bits[0];
  const sign = (b >>> 16) & 0x8000;
  const exponent = (b >>> 23) & 0xff;
  const mantissa = b & 0x7fffff;
  if (exponent === 0xff) return sign | 0x7c00 | (mantissa ? 0x200 : 0);
  const e = exponent - 112; // 127 − 15: the exponent as f16 stores it
  if (e >= 31) return sign | 0x7c00;
  if (e <= 0) {
    if (e < -10) return sign;
    return sign | roundShift(mantissa | 0x800000, 14 - e); // subnormal: the hidden bit becomes visible
  }
  return (sign | (e << 10)) + roundShift(mantissa, 13); // a carry out of the mantissa is the next exponent
}

function roundShift(value: number, shift: number): number {
  const half = 1 << (shift - 1);
  const rest = value & ((1 << shift) - 1);
  const kept = value >>> shift;
  return rest > half || (rest === half && kept & 1) ? kept + 1 : kept;
}

export function fromFloat16(half: number): number {
  const sign = (half & 0x8000) << 16;
  const exponent = (half >>> 10) & 0x1f;
  const mantissa = half & 0x3ff;
  if (exponent === 0) return (sign ? -1 : 1) * mantissa * 2 ** -24;
  bits[0] = sign | ((exponent === 31 ? 0xff : exponent + 112) << 23) | (mantissa << 13);
  return floats[0];
}

export function encodeFloat16(values: Float32Array): Uint16Array {
  const out = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) out[i] = toFloat16(values[i]);
  return out;
}

export function decodeFloat16(halves: Uint16Array): Float32Array {
  if (Float16Array) return new Float32Array(new Float16Array(halves.buffer, halves.byteOffset, halves.length));
  const out = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) out[i] = fromFloat16(halves[i]);
  return out;
}
