/** Self-attention of a whole block in one kernel, and the class token's weights alone for `explain`. */
import { qkvLayout } from "./product.ts";
import { SHAPE } from "./rows.ts";
import { align4, repeat, type Shader, shader } from "./shader.ts";

/** The options that change the shader's text. */
export interface AttentionKind {
  /** of the output, a multiple of 8: the widest head has room */
  width: number;
  /** workgroup: 8 × this many invocations, each with 4 queries */
  lanesY: number;
  /** the patch grid, where a learned bias for the places of query and key is added: `relativeBias` in src/reference/positions.ts */
  relative?: { rows: number; columns: number };
  /** rows stand for several patches: the logarithm of how many is added to a key's scores */
  sizes?: boolean;
}

export interface AttentionShape {
  /** 1/√d of the dense head */
  scale: number;
  /** width of each head */
  headDims: number[];
  tokens: number;
  /** the first so many tokens ask: all, or those that are read of the last block */
  queries: number;
  /** tokens whose attention `explain` averages; default 1, the class token */
  mapRows?: number;
}

const LANES_X = 8;
/** of an invocation, in each round: 64 keys a round */
const KEYS = 8;
const ROUND = LANES_X * KEYS;

export const queriesOfTile = ({ lanesY }: AttentionKind): number => 4 * lanesY;

export function attentionUniform({ scale, headDims, tokens, queries, mapRows = 1 }: AttentionShape): Uint32Array {
  const inner = headDims.reduce((a, b) => a + b, 0);
  const { tokenStride, valueStart, size } = qkvLayout(inner, tokens);
  const layout = [inner, align4(inner), tokenStride, valueStart, size];
  const [scaleBits] = new Uint32Array(Float32Array.of(scale).buffer);
  return Uint32Array.from([tokens, queries, headDims.length, ...layout, mapRows, scaleBits]);
}

/** First channel and width of each head. */
export function headTable(headDims: number[]): Uint32Array {
  let next = 0;
  return Uint32Array.from(headDims.flatMap((width) => [(next += width) - width, width]));
}

/**
 * softmax(scale q kᵀ) v of every head at its own width, as `attention` in src/reference/ops.ts, without the scores in
 * memory: 64 keys a round, with the greatest score and the sum so far (online softmax, Milakov & Gimelshein 2018,
 * https://arxiv.org/abs/1805.02867). A vec4f holds the values of an invocation's four queries.
 */
export function attentionShader({ width, lanesY, relative, sizes }: AttentionKind): Shader {
  const columns = width / LANES_X;
  const biased = (j: number) => {
    const key = `key + lane.x + ${j * LANES_X}u`;
    if (sizes) return ` + rows[tile.z * shape.tokens + ${key}].y`;
    return relative ? ` + vec4f(${repeat(4, (i) => `biasOf(tile.y, query + ${i}u, ${key})`, ", ")})` : "";
  };
  return shader(
    {
      shape: ["uniform", "Shape"],
      heads: ["read", "array<vec2u>"], // first channel and width
      quads: ["read", "array<vec4f>"], // the same buffer as qkv
      qkv: ["read", "array<f32>"], // of each picture: queries and keys [2 × inner, tokens], values [tokens, inner]
      ...biasBindings({ relative, sizes }),
      y: ["write", "array<f32>"], // [pictures × queries, inner]
    },
    `${SHAPE}
${relative ? biasOf(relative) : ""}
var<workgroup> weights: array<vec4f, ${ROUND * lanesY}>; // of each key of the round
var<workgroup> scratch: array<vec4f, ${LANES_X * lanesY}>;
@compute @workgroup_size(${LANES_X}, ${lanesY})
fn main(@builtin(workgroup_id) tile: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let first = heads[tile.y].x;
  let width = heads[tile.y].y;
  let picture = tile.z * shape.pictureSize;
  let query = tile.x * ${4 * lanesY}u + lane.y * 4u;
  let mine = lane.y * ${LANES_X}u;
  var greatest = vec4f(-1e30);
  var total = vec4f(); // of this invocation's keys
${repeat(columns, (c) => `  var out${c} = vec4f();`)}
  for (var key = 0u; key < shape.tokens; key += ${ROUND}u) {
${repeat(KEYS, (j) => `    var s${j} = vec4f();`)}
    for (var c = first; c < first + width; c++) {
      let q = quads[(picture + c * shape.tokenStride + query) / 4u];
      let k = picture + (shape.inner + c) * shape.tokenStride + key + lane.x;
${repeat(KEYS, (j) => `      s${j} = fma(q, vec4f(qkv[k + ${j * LANES_X}u]), s${j});`)}
    }
${repeat(KEYS, (j) => `    s${j} = select(vec4f(-1e30), s${j} * shape.scale${biased(j)}, key + lane.x + ${j * LANES_X}u < shape.tokens);`)}
    scratch[mine + lane.x] = ${repeat(KEYS - 1, () => "max(", "")}s0${repeat(KEYS - 1, (j) => `, s${j + 1})`, "")};
    workgroupBarrier();
    let before = greatest;
    for (var l = 0u; l < ${LANES_X}u; l++) { greatest = max(greatest, scratch[mine + l]); }
    let shrink = exp(before - greatest);
    total *= shrink;
${repeat(columns, (c) => `    out${c} *= shrink;`)}
${repeat(KEYS, (j) => `    s${j} = exp(s${j} - greatest); total += s${j}; weights[lane.y * ${ROUND}u + lane.x + ${j * LANES_X}u] = s${j};`)}
    workgroupBarrier();
    let end = min(${ROUND}u, shape.tokens - key);
    for (var j = 0u; j < end; j++) {
      let p = weights[lane.y * ${ROUND}u + j];
      let v = picture + shape.valueStart + (key + j) * shape.stride + first + lane.x;
${repeat(columns, (c) => `      out${c} = fma(p, vec4f(qkv[v + ${c * LANES_X}u]), out${c});`)}
    }
  }
  workgroupBarrier();
  scratch[mine + lane.x] = total;
  workgroupBarrier();
  var sum = vec4f();
  for (var l = 0u; l < ${LANES_X}u; l++) { sum += scratch[mine + l]; }
  var out = array<vec4f, ${columns}>(${repeat(columns, (c) => `out${c} / sum`, ", ")});
  for (var i = 0u; i < 4u && query + i < shape.queries; i++) {
    let row = (tile.z * shape.queries + query + i) * shape.stride;
    for (var c = 0u; c < ${columns}u; c++) {
      let channel = lane.x + c * ${LANES_X}u;
      if (channel < width) { y[row + first + channel] = out[c][i]; }
    }
    // The next product reads whole vec4s.
    if (tile.y == shape.heads - 1u && shape.inner + lane.x < shape.stride) { y[row + shape.inner + lane.x] = 0f; }
  }
}`,
  );
}

/**
 * The class token's attention, or that of the first `mapRows` tokens, the mean over heads: `map` of `attention` in
 * src/reference/ops.ts.
 * One workgroup; each invocation has the keys lane, lane + 64, … and computes their scores anew in each of three passes.
 */
export function explainShader({ relative, sizes }: Pick<AttentionKind, "relative" | "sizes">): Shader {
  const every = (line: string) => `    for (var key = lane; key < shape.tokens; key += 64u) { ${line} }`;
  return shader(
    {
      shape: ["uniform", "Shape"],
      heads: ["read", "array<vec2u>"],
      qkv: ["read", "array<f32>"],
      ...biasBindings({ relative, sizes }),
      y: ["write", "array<f32>"], // [tokens]
    },
    `${SHAPE}
${relative ? biasOf(relative) : ""}
var<workgroup> scratch: array<f32, 64>;
fn score(head: u32, query: u32, key: u32) -> f32 {
  var sum = 0f;
  for (var c = heads[head].x; c < heads[head].x + heads[head].y; c++) {
    sum = fma(qkv[c * shape.tokenStride + query], qkv[(shape.inner + c) * shape.tokenStride + key], sum);
  }
  return sum * shape.scale${relative ? " + biasOf(head, query, key)" : ""}${sizes ? " + rows[key].y" : ""};
}
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
${every("y[key] = 0f;")}
  for (var i = 0u; i < shape.heads * shape.mapRows; i++) {
    let head = i % shape.heads;
    let query = i / shape.heads;
    var greatest = -1e30f;
${every("greatest = max(greatest, score(head, query, key));")}
    scratch[lane] = greatest;
    workgroupBarrier();
    for (var l = 0u; l < 64u; l++) { greatest = max(greatest, scratch[l]); }
    workgroupBarrier();
    var total = 0f;
${every("total += exp(score(head, query, key) - greatest);")}
    scratch[lane] = total;
    workgroupBarrier();
    total = 0f;
    for (var l = 0u; l < 64u; l++) { total += scratch[l]; }
    workgroupBarrier();
${every("y[key] += exp(score(head, query, key) - greatest) / (total * f32(shape.heads * shape.mapRows));")}
  }
}`,
  );
}

function biasBindings({ relative, sizes }: Pick<AttentionKind, "relative" | "sizes">): Parameters<typeof shader>[0] {
  return {
    rows: sizes ? ["read", "array<vec4f>"] : undefined, // [pictures × tokens]: size, its logarithm, RoPE's coordinates
    places: relative ? ["read", "array<i32>"] : undefined, // of each token: its patch, or −1
    table: relative ? ["read", "array<f32>"] : undefined, // [heads, (2 rows − 1)(2 columns − 1) + 3]
  };
}

function biasOf({ rows, columns }: { rows: number; columns: number }): string {
  const places = (2 * rows - 1) * (2 * columns - 1);
  return `fn biasOf(head: u32, query: u32, key: u32) -> f32 {
  let start = head * ${places + 3}u;
  let a = places[min(query, shape.tokens - 1u)];
  let b = places[min(key, shape.tokens - 1u)];
  if (a < 0) { return table[start + ${places}u + select(0u, 2u, b < 0)]; }
  if (b < 0) { return table[start + ${places + 1}u]; }
  let down = a / ${columns} - b / ${columns} + ${rows - 1};
  let across = a % ${columns} - b % ${columns} + ${columns - 1};
  return table[start + u32(down * ${2 * columns - 1} + across)];
}`;
}
