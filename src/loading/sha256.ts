/**
 * SHA-256 for origins without crypto.subtle, which browsers offer on https only. It is our own because libraries would
 * take a sixth of the worker's size budget. The tests compare it with Node's.
 * @see FIPS 180-4, https://doi.org/10.6028/NIST.FIPS.180-4
 */
export function sha256(bytes: Uint8Array): Uint8Array {
  const blocks = Math.ceil((bytes.length + 9) / 64);
  const tail = new Uint8Array(bytes.length % 64 > 55 ? 128 : 64); // the last bytes, one bit, zeros, the length in bits
  const whole = blocks - tail.length / 64;
  tail.set(bytes.subarray(64 * whole));
  tail[bytes.length - 64 * whole] = 0x80;
  const end = new DataView(tail.buffer, tail.length - 8);
  end.setUint32(0, bytes.length / 2 ** 29);
  end.setUint32(4, bytes.length << 3);

  const state = Uint32Array.from(PRIMES.slice(0, 8), (p) => fraction(Math.sqrt(p)));
  const body = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let block = 0; block < whole; block++) mix(state, body, 64 * block);
  for (let at = 0; at < tail.length; at += 64) mix(state, new DataView(tail.buffer), at);
  const digest = new DataView(new ArrayBuffer(32));
  state.forEach((word, i) => void digest.setUint32(4 * i, word));
  return new Uint8Array(digest.buffer);
}

const PRIMES: number[] = [];
for (let n = 2; PRIMES.length < 64; n++) if (PRIMES.every((p) => n % p)) PRIMES.push(n);

/** The first 32 bits after the point. */
const fraction = (x: number) => (x % 1) * 2 ** 32;

const K = Uint32Array.from(PRIMES, (p) => fraction(Math.cbrt(p)));
const w = new Uint32Array(64);
const rotate = (x: number, by: number) => (x >>> by) | (x << (32 - by));

function mix(state: Uint32Array, view: DataView, at: number): void {
  let [a, b, c, d, e, f, g, h] = state;
  for (let t = 0; t < 64; t++) {
    if (t < 16) w[t] = view.getUint32(at + 4 * t);
    else {
      const [near, far] = [w[t - 2], w[t - 15]];
      const s0 = rotate(far, 7) ^ rotate(far, 18) ^ (far >>> 3);
      const s1 = rotate(near, 17) ^ rotate(near, 19) ^ (near >>> 10);
      w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    const sum1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
    const sum0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
    const t1 = h + sum1 + ((e & f) ^ (~e & g)) + K[t] + w[t];
    const t2 = sum0 + ((a & b) ^ (a & c) ^ (b & c));
    h = g;
    g = f;
    f = e;
    e = (d + t1) | 0;
    d = c;
    c = b;
    b = a;
    a = (t1 + t2) | 0;
  }
  [a, b, c, d, e, f, g, h].forEach((value, i) => void (state[i] += value));
}
