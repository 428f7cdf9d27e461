/** Self-attention of a whole block in one kernel, and the class token's weights alone for `explain`. */
import { align4, repeat, type Shader, shader } from "./shader.ts";
import { qkvLayout } from "./product.ts";

export interface Attention {
  /** width of each head */
  headDims: number[];
  tokens: number;
  /** the first so many tokens ask: all, or those that are read of the last block */
  queries: number;
  /** 1/√d of the dense head */
  scale: number;
  /** workgroup: 8 × this many invocations, each with 4 queries */
  lanesY: number;
}

const LANES_X = 8;
/** of an invocation, in each round: 64 keys a round */
const KEYS = 8;
const ROUND = LANES_X * KEYS;

export const queriesOfTile = ({ lanesY }: Attention): number => 4 * lanesY;

/**
 * softmax(scale q kᵀ) v of every head at its own width, as `attention` in src/reference/ops.ts, without the scores in
 * memory: 64 keys a round, with the greatest score and the sum so far (online softmax, Milakov & Gimelshein 2018,
 * https://arxiv.org/abs/1805.02867). A vec4f holds the value of an invocation's four queries.
 */
export function attentionShader(attention: Attention): Shader {
  const { headDims, tokens, queries, scale, lanesY } = attention;
  const inner = headDims.reduce((a, b) => a + b, 0);
  const { tokenStride, valueStart, size } = qkvLayout(inner, tokens);
  const stride = align4(inner);
  const columns = Math.ceil(Math.max(...headDims) / LANES_X);
  const heads = headTable(headDims);
  return shader(
    {
      quads: ["read", "array<vec4f>"], // the same buffer as qkv
      qkv: ["read", "array<f32>"], // of each picture: queries and keys [2 × inner, tokens], values [tokens, inner]
      y: ["write", "array<f32>"], // [pictures × queries, inner]
    },
    `
${heads}
var<workgroup> weights: array<vec4f, ${ROUND * lanesY}>; // of each key of the round
var<workgroup> scratch: array<vec4f, ${LANES_X * lanesY}>;
@compute @workgroup_size(${LANES_X}, ${lanesY})
fn main(@builtin(workgroup_id) tile: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let first = START[tile.y];
  let width = WIDTH[tile.y];
  let picture = tile.z * ${size}u;
  let query = tile.x * ${4 * lanesY}u + lane.y * 4u;
  let mine = lane.y * ${LANES_X}u;
  var greatest = vec4f(-1e30);
  var total = vec4f(); // of this invocation's keys
${repeat(columns, (c) => `  var out${c} = vec4f();`)}
  for (var key = 0u; key < ${tokens}u; key += ${ROUND}u) {
${repeat(KEYS, (j) => `    var s${j} = vec4f();`)}
    for (var c = 0u; c < width; c++) {
      let q = quads[(picture + (first + c) * ${tokenStride}u + query) / 4u];
      let k = picture + (${inner}u + first + c) * ${tokenStride}u + key + lane.x;
${repeat(KEYS, (j) => `      s${j} = fma(q, vec4f(qkv[k + ${j * LANES_X}u]), s${j});`)}
    }
${repeat(KEYS, (j) => `    s${j} = select(vec4f(-1e30), s${j} * ${scale}f, key + lane.x + ${j * LANES_X}u < ${tokens}u);`)}
    scratch[mine + lane.x] = ${repeat(KEYS - 1, () => "max(", "")}s0${repeat(KEYS - 1, (j) => `, s${j + 1})`, "")};
    workgroupBarrier();
    let before = greatest;
    for (var l = 0u; l < ${LANES_X}u; l++) { greatest = max(greatest, scratch[mine + l]); }
    let shrink = exp(before - greatest);
    total *= shrink;
${repeat(columns, (c) => `    out${c} *= shrink;`)}
${repeat(KEYS, (j) => `    s${j} = exp(s${j} - greatest); total += s${j}; weights[lane.y * ${ROUND}u + lane.x + ${j * LANES_X}u] = s${j};`)}
    workgroupBarrier();
    let end = min(${ROUND}u, ${tokens}u - key);
    for (var j = 0u; j < end; j++) {
      let p = weights[lane.y * ${ROUND}u + j];
      let v = picture + ${valueStart}u + (key + j) * ${stride}u + first + lane.x;
${repeat(columns, (c) => `      out${c} = fma(p, vec4f(qkv[v + ${c * LANES_X}u]), out${c});`)}
    }
  }
  workgroupBarrier();
  scratch[mine + lane.x] = total;
  workgroupBarrier();
  var sum = vec4f();
  for (var l = 0u; l < ${LANES_X}u; l++) { sum += scratch[mine + l]; }
${repeat(
  4,
  (i) => `  if (query + ${i}u < ${queries}u) {
    let row = (tile.z * ${queries}u + query + ${i}u) * ${stride}u;
${repeat(columns, (c) => `    if (lane.x + ${c * LANES_X}u < width) { y[row + first + lane.x + ${c * LANES_X}u] = out${c}[${i}] / sum[${i}]; }`)}
    if (tile.y == ${headDims.length - 1}u && lane.x < ${stride - inner}u) { y[row + ${inner}u + lane.x] = 0f; } // the row's end
  }`,
)}
}`,
  );
}

function headTable(headDims: number[]): string {
  let next = 0;
  const start = headDims.map((width) => (next += width) - width);
  const table = (name: string, values: number[]) =>
    `const ${name} = array<u32, ${values.length}>(${values.map((v) => `${v}u`).join(", ")});`;
  return `${table("START", start)}\n${table("WIDTH", headDims)}`;
}

/**
 * The class token's attention, the mean over heads, as `classAttention` of `attention` in src/reference/ops.ts. One
 * workgroup; each invocation has the keys lane, lane + 64, … and computes their scores anew in each of three passes.
 */
export function explainShader({ headDims, tokens, scale }: Attention): Shader {
  const inner = headDims.reduce((a, b) => a + b, 0);
  const { tokenStride } = qkvLayout(inner, tokens);
  const every = (line: string) => `    for (var key = lane; key < ${tokens}u; key += 64u) { ${line} }`;
  return shader(
    { qkv: ["read", "array<f32>"], y: ["write", "array<f32>"] },
    `
${headTable(headDims)}
var<workgroup> scratch: array<f32, 64>;
fn score(first: u32, width: u32, key: u32) -> f32 {
  var sum = 0f;
  for (var c = first; c < first + width; c++) { sum = fma(qkv[c * ${tokenStride}u], qkv[(${inner}u + c) * ${tokenStride}u + key], sum); }
  return sum * ${scale}f;
}
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
${every("y[key] = 0f;")}
  for (var head = 0u; head < ${headDims.length}u; head++) {
    let first = START[head];
    let width = WIDTH[head];
    var greatest = -1e30f;
${every("greatest = max(greatest, score(first, width, key));")}
    scratch[lane] = greatest;
    workgroupBarrier();
    for (var l = 0u; l < 64u; l++) { greatest = max(greatest, scratch[l]); }
    workgroupBarrier();
    var total = 0f;
${every("total += exp(score(first, width, key) - greatest);")}
    scratch[lane] = total;
    workgroupBarrier();
    total = 0f;
    for (var l = 0u; l < 64u; l++) { total += scratch[l]; }
    workgroupBarrier();
${every(`y[key] += exp(score(first, width, key) - greatest) / (total * ${headDims.length}f);`)}
  }
}`,
  );
}
