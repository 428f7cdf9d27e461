/**
 * Keys that need work after their linear. They are stored in rows first, where they are normalised and rotated as the
 * queries are, and are then copied into the panels of attention. RoPE's reference is src/reference/positions.ts.
 */
import {
  BLOCK_FREQUENCIES,
  BLOCK_HEAD_TABLE,
  BLOCK_HEADS,
  BLOCK_INNER,
  BLOCK_K_NORM,
  BLOCK_KEY_ROWS,
  BLOCK_PLACES,
  BLOCK_Q_NORM,
  BLOCK_ROWS,
  BLOCK_TOKENS,
  HEAD_KEYS,
  HEAD_OFFSET,
  HEAD_PANELS,
  HEAD_WIDTH,
  HEAD_WORDS,
  PLAN_PREFIX,
  PLAN_Q,
} from "../layout";
import { madd } from "./math";
import { plan } from "./model";
import { normRow } from "./norm";
import { transpose32 } from "./pack";
import { claim, closePhase, openPhase, share } from "./sync";
import { address, word } from "./words";

/** Items are 8 tokens, side by side in a panel of keys. */
export function keyRowsPhase(block: usize): void {
  const tokens = word(block, BLOCK_TOKENS);
  const panels = (tokens + 7) >> 3;
  const each = share(panels, 1);
  const items = (panels + each - 1) / each;
  openPhase();
  for (let item = claim(); item < items; item = claim()) {
    const end = min(panels, (item + 1) * each);
    for (let panel = item * each; panel < end; panel++) {
      for (let t = panel * 8; t < min(tokens, panel * 8 + 8); t++) prepareToken(block, t);
      packKeys(block, panel);
    }
  }
  closePhase(items);
}

/** Norms and turns a token's key, and its query where there is one. */
function prepareToken(block: usize, token: i32): void {
  const rowBytes: usize = word(block, BLOCK_INNER) * 4;
  const key = address(block, BLOCK_KEY_ROWS) + token * rowBytes;
  const query = token < word(block, BLOCK_ROWS) ? address(plan, PLAN_Q) + token * rowBytes : 0;
  const norm = address(block, BLOCK_K_NORM);
  if (norm) {
    normHeads(block, norm, key);
    if (query) normHeads(block, address(block, BLOCK_Q_NORM), query);
  }
  if (address(block, BLOCK_FREQUENCIES) && token >= word(plan, PLAN_PREFIX)) turn(block, token, key, query);
}

function normHeads(block: usize, norm: usize, row: usize): void {
  const heads = word(block, BLOCK_HEADS);
  let head = address(block, BLOCK_HEAD_TABLE);
  for (let h = 0; h < heads; h++) {
    const offset = address(head, HEAD_OFFSET);
    normRow(norm, row + offset, row + offset, word(head, HEAD_WIDTH), offset);
    head += HEAD_WORDS * 4;
  }
}

/** Turns each pair of adjacent channels (a, b) by its angle: a cos − b sin, a sin + b cos. */
function turn(block: usize, token: i32, key: usize, query: usize): void {
  const half: usize = word(block, BLOCK_INNER) * 2; // bytes of one number a pair
  const frequencies = address(block, BLOCK_FREQUENCIES);
  const place = address(block, BLOCK_PLACES) + token * 8;
  const row = v128.load32_splat(place);
  const column = v128.load32_splat(place, 4);
  const sign = f32x4(-1, 1, -1, 1);
  for (let i: usize = 0; i < half; i += 16) {
    const turns = madd(v128.load(frequencies + half + i), column, f32x4.mul(v128.load(frequencies + i), row));
    const sines = sineAndCosine(turns);
    const cosines = cosine;
    for (let part = 0; part < 2; part++) {
      const shift: usize = part * 16;
      const c = part ? v128.shuffle<i32>(cosines, cosines, 2, 2, 3, 3) : v128.shuffle<i32>(cosines, cosines, 0, 0, 1, 1);
      const s = part ? v128.shuffle<i32>(sines, sines, 2, 2, 3, 3) : v128.shuffle<i32>(sines, sines, 0, 0, 1, 1);
      const signed = f32x4.mul(s, sign);
      turnPairs(key + 2 * i + shift, c, signed);
      if (query) turnPairs(query + 2 * i + shift, c, signed);
    }
  }
}

// @ts-ignore: decorator
@inline
function turnPairs(at: usize, cosines: v128, signed: v128): void {
  const x = v128.load(at);
  const swapped = v128.shuffle<i32>(x, x, 1, 0, 3, 2);
  v128.store(at, madd(x, cosines, f32x4.mul(swapped, signed)));
}

/** The second result of sineAndCosine. */
let cosine: v128 = f32x4.splat(0);

/**
 * Sine and cosine of an angle given in turns. Half of its remainder beyond whole turns is v in ±π/2, where short series
 * suffice: sin 2v = 2 sin v cos v, cos 2v = 1 − 2 sin² v.
 */
function sineAndCosine(turns: v128): v128 {
  const left = f32x4.sub(turns, f32x4.nearest(turns));
  const v = f32x4.mul(left, f32x4.splat(3.141592653589793));
  const u = f32x4.mul(v, v);
  let s = madd(u, f32x4.splat(1.6059043836821613e-10), f32x4.splat(-2.505210838544172e-8)); // 1/13!, −1/11!
  s = madd(s, u, f32x4.splat(2.7557319223985893e-6));
  s = madd(s, u, f32x4.splat(-1.984126984126984e-4));
  s = madd(s, u, f32x4.splat(8.333333333333333e-3));
  s = madd(s, u, f32x4.splat(-1.6666666666666666e-1));
  s = f32x4.mul(v, madd(s, u, f32x4.splat(1)));
  let c = madd(u, f32x4.splat(2.08767569878681e-9), f32x4.splat(-2.755731922398589e-7)); // 1/12!, −1/10!
  c = madd(c, u, f32x4.splat(2.48015873015873e-5));
  c = madd(c, u, f32x4.splat(-1.388888888888889e-3));
  c = madd(c, u, f32x4.splat(4.1666666666666664e-2));
  c = madd(c, u, f32x4.splat(-0.5));
  c = madd(c, u, f32x4.splat(1));
  const twice = f32x4.add(s, s);
  cosine = f32x4.sub(f32x4.splat(1), f32x4.mul(twice, s));
  return f32x4.mul(twice, c);
}

/** 8 tokens' keys → a panel of each head. Rows beyond the last token are whatever lies there; their scores are not used. */
function packKeys(block: usize, panel: i32): void {
  const rowBytes: usize = word(block, BLOCK_INNER) * 4;
  const rows = address(block, BLOCK_KEY_ROWS) + panel * 8 * rowBytes;
  const heads = word(block, BLOCK_HEADS);
  let head = address(block, BLOCK_HEAD_TABLE);
  for (let h = 0; h < heads; h++) {
    const wide = word(head, HEAD_PANELS) * 8;
    transpose32(rows + address(head, HEAD_OFFSET), rowBytes, address(head, HEAD_KEYS) + panel * wide * 32, wide);
    head += HEAD_WORDS * 4;
  }
}
