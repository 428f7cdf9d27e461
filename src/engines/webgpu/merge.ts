/** Merging tokens: `choosePairs`, `mergeRows` and `mergeSizes` of src/reference/merge.ts, in two kernels. */
import { SHAPE } from "./rows.ts";
import { align4, repeat, type Shader, shader } from "./shader.ts";

/** The workgroup of `alikeShader`: 16 × 4 invocations, each with 4 patches of A, and with 4 of B a round. */
const LANES_X = 16;
const LANES_Y = 4;
const OWN = 4;
const ROUND = LANES_X * OWN;

/** Patches of A that a workgroup of `alikeShader` compares. */
export const ALIKE_TILE = LANES_Y * OWN;

/** A's part of so many tokens: patches 1, 3, 5, … */
export const oddPatches = (tokens: number, prefixTokens: number): number => Math.floor((tokens - prefixTokens) / 2);

/**
 * Finds for each patch of A the patch of B with the most similar key, by the cosine of all heads side by side. Among
 * equals the lower one wins.
 *
 * y: [pictures × patches of A]: the cosine, and the row of the patch of B
 */
export function alikeShader({ prefixTokens }: { prefixTokens: number }): Shader {
  const token = (i: number) => `keys + c * shape.tokenStride + a${i}`;
  return shader(
    {
      shape: ["uniform", "Shape"],
      qkv: ["read", "array<f32>"],
      y: ["write", "array<vec2f>"],
    },
    `${SHAPE}
var<workgroup> found: array<vec2f, ${ALIKE_TILE * LANES_X}>;
fn inverse(squares: vec4f) -> vec4f { return select(vec4f(), 1f / sqrt(squares), squares > vec4f()); }
@compute @workgroup_size(${LANES_X}, ${LANES_Y})
fn main(@builtin(workgroup_id) tile: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let odd = (shape.tokens - ${prefixTokens}u) / 2u;
  let even = (shape.tokens - ${prefixTokens}u + 1u) / 2u;
  let keys = tile.z * shape.pictureSize + shape.inner * shape.tokenStride;
  let own = tile.x * ${ALIKE_TILE}u + lane.y * ${OWN}u;
${repeat(OWN, (i) => `  let a${i} = ${prefixTokens + 1}u + 2u * min(own + ${i}u, odd - 1u);`)}
  var best = vec4f(-2f); // below every cosine; the result for a key that is NaN
  var partner = vec4u();
  for (var first = lane.x; first < even + lane.x; first += ${ROUND}u) {
${repeat(OWN, (j) => `    let b${j} = ${prefixTokens}u + 2u * min(first + ${j * LANES_X}u, even - 1u);`)}
${repeat(OWN, (i) => `    var dots${i} = vec4f();`)}
    var squaresA = vec4f();
    var squaresB = vec4f();
    for (var c = 0u; c < shape.inner; c++) {
      let a = vec4f(${repeat(OWN, (i) => `qkv[${token(i)}]`, ", ")});
      let b = vec4f(${repeat(OWN, (j) => `qkv[keys + c * shape.tokenStride + b${j}]`, ", ")});
${repeat(OWN, (i) => `      dots${i} = fma(vec4f(a[${i}]), b, dots${i});`)}
      squaresA = fma(a, a, squaresA);
      squaresB = fma(b, b, squaresB);
    }
    let inverseA = inverse(squaresA);
    let inverseB = inverse(squaresB);
    var cosines = array<vec4f, ${OWN}>(${repeat(OWN, (i) => `dots${i} * inverseB * inverseA[${i}]`, ", ")});
    for (var i = 0u; i < ${OWN}u; i++) {
      for (var j = 0u; j < ${OWN}u; j++) {
        let b = first + j * ${LANES_X}u;
        if (b < even && cosines[i][j] > best[i]) {
          best[i] = cosines[i][j];
          partner[i] = b;
        }
      }
    }
  }
  for (var i = 0u; i < ${OWN}u; i++) { found[(lane.y * ${OWN}u + i) * ${LANES_X}u + lane.x] = vec2f(best[i], f32(partner[i])); }
  workgroupBarrier();
  let a = own + lane.x;
  if (lane.x >= ${OWN}u || a >= odd) { return; }
  var chosen = found[(lane.y * ${OWN}u + lane.x) * ${LANES_X}u];
  for (var l = 1u; l < ${LANES_X}u; l++) {
    let other = found[(lane.y * ${OWN}u + lane.x) * ${LANES_X}u + l];
    if (other.x > chosen.x || (other.x == chosen.x && other.y < chosen.y)) { chosen = other; }
  }
  y[tile.z * odd + a] = vec2f(chosen.x, ${prefixTokens}f + 2f * chosen.y);
}`,
  );
}

export interface MergeKind {
  dim: number;
  prefixTokens: number;
  /** at least the patches of A in any block */
  most: number;
}

/** Rows of the result that a workgroup of `mergeShader` makes. Each of them ranks all pairs anew, which is cheaper than a dispatch. */
export const MERGE_ROWS = 8;

/** 4 bytes for each patch of A, of 16 KB, and half a kilobyte for bits and sums. */
export const MOST_ODD_PATCHES = 3900;

/** @param entering tokens; @param merge pairs; @param perPicture whether `rowsBefore` has rows of its own for each picture */
export const mergeUniform = (entering: number, merge: number, perPicture: boolean): Uint32Array =>
  Uint32Array.from([entering, merge, perPicture ? entering : 0, 0]);

/**
 * The most similar pairs become one token each: the mean, weighted by how many patches each stands for. A workgroup
 * first ranks all pairs and lists the row that each patch of A goes to, then makes its rows.
 *
 * shape: x: tokens, y: pairs, z: rows of `rowsBefore` a picture, 0 where all pictures share them.
 * x: [pictures × tokens, dim]; y: [pictures × (tokens − pairs), dim]; rows: size, its logarithm, and RoPE's coordinates;
 * pairs: of the first picture, for each patch of A the row it merges into, or −1
 */
export function mergeShader({ dim, prefixTokens, most }: MergeKind): Shader {
  const stride = align4(dim);
  const shares = Math.ceil(stride / 64);
  const channels = (line: (c: number) => string) => repeat(shares, line);
  const words = Math.ceil(most / 32);
  return shader(
    {
      shape: ["uniform", "vec4u"],
      x: ["read", "array<f32>"],
      alike: ["read", "array<vec2f>"],
      rowsBefore: ["read", "array<vec4f>"],
      y: ["write", "array<f32>"],
      after: ["write", "array<vec2f>"],
      rowsAfter: ["write", "array<vec4f>"],
      pairs: ["write", "array<f32>"],
    },
    `
var<workgroup> stays: array<atomic<u32>, ${words}>; // a bit for each patch of A
var<workgroup> rowOf: array<u32, ${most}>; // after the merge, of each patch of A
var<workgroup> scratch: array<f32, 64>;
fn isAhead(other: vec2f, o: u32, mine: vec2f, a: u32) -> bool {
  return other.x > mine.x || (other.x == mine.x && o < a);
}
fn sumUp(value: f32, lane: u32) -> f32 {
  workgroupBarrier();
  scratch[lane] = value;
  workgroupBarrier();
  var sum = 0f;
  for (var l = 0u; l < 64u; l++) { sum += scratch[l]; }
  return sum;
}
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) tile: vec3u, @builtin(local_invocation_index) lane: u32) {
  let tokens = shape.x;
  let left = tokens - shape.y;
  let odd = (tokens - ${prefixTokens}u) / 2u;
  let evenStart = ${prefixTokens}u + odd - shape.y; // the first row of B
  let list = tile.z * odd;
  for (var a = lane; a < odd; a += 64u) {
    let mine = alike[list + a];
    var rank = 0u;
    for (var o = 0u; o < odd; o++) { rank += select(0u, 1u, isAhead(alike[list + o], o, mine, a)); }
    if (rank >= shape.y) { atomicOr(&stays[a / 32u], 1u << (a % 32u)); }
  }
  workgroupBarrier();
  for (var a = lane; a < odd; a += 64u) {
    let bits = atomicLoad(&stays[a / 32u]);
    let partner = u32(alike[list + a].y);
    var row = evenStart + (partner - ${prefixTokens}u) / 2u;
    let isLeft = ((bits >> (a % 32u)) & 1u) == 1u;
    if (isLeft) {
      row = ${prefixTokens}u + countOneBits(bits & ((1u << (a % 32u)) - 1u));
      for (var w = 0u; w < a / 32u; w++) { row += countOneBits(atomicLoad(&stays[w])); }
    }
    rowOf[a] = row;
    if (tile.x == 0u && tile.z == 0u) { pairs[a] = select(f32(partner), -1f, isLeft); }
  }
  workgroupBarrier();
  for (var i = 0u; i < ${MERGE_ROWS}u; i++) {
    let row = tile.x * ${MERGE_ROWS}u + i;
    if (row >= left) { break; }
${channels((c) => `    var sum${c} = 0f;`)}
    var place = vec4f();
    for (var s = 0u; s <= odd; s++) {
      var token = row; // a prefix token, or the row's own of B, or one of A that goes there
      if (s < odd) {
        if (rowOf[s] != row) { continue; }
        token = ${prefixTokens + 1}u + 2u * s;
      } else if (row >= evenStart) { token = ${prefixTokens}u + 2u * (row - evenStart); }
      else if (row >= ${prefixTokens}u) { continue; }
      let source = rowsBefore[tile.z * shape.z + token];
      place += vec4f(source.x, 0f, source.zw * source.x);
      let at = (tile.z * tokens + token) * ${stride}u + lane;
${channels((c) => `      sum${c} = fma(source.x, x[at + ${64 * c}u], sum${c});`)}
    }
    let at = (tile.z * left + row) * ${stride}u + lane;
    var mean = 0f;
${channels((c) => `    sum${c} /= place.x; ${within(c, dim, `mean += sum${c};`)}`)}
    mean = sumUp(mean, lane) / ${dim}f;
    var squares = 0f;
${channels((c) => `    ${within(c, dim, `squares += (sum${c} - mean) * (sum${c} - mean);`)}`)}
${channels((c) => `    ${within(c, stride, `y[at + ${64 * c}u] = sum${c};`)}`)}
    squares = sumUp(squares, lane);
    if (lane == 0u) {
      after[tile.z * left + row] = vec2f(mean, squares);
      rowsAfter[tile.z * left + row] = vec4f(place.x, log(place.x), place.zw / place.x);
    }
  }
}`,
  );
}

/** Restricts a line to invocations whose channel `lane + 64 c` is below `count`. */
const within = (c: number, count: number, line: string): string =>
  64 * (c + 1) <= count ? line : `if (lane + ${64 * c}u < ${count}u) { ${line} }`;
