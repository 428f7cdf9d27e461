/**
 * Row operations between two products that only some networks have: norms of queries and keys, rotary positions, gates.
 */
import type { Activation } from "../../format/model.ts";
import { activations } from "./activation.ts";
import { align4, type Shader, shader } from "./shader.ts";

export interface RowsKind {
  /** x has gates, then values, side by side; y is act(gate) × value, as `gatedUnits` in src/reference/ops.ts */
  gate?: Activation;
  /** a layer norm whose statistics count so many channels; those that were cut are zeros */
  norm?: { eps: number; denseDim: number };
  /** the first rows of each picture, which are only copied */
  skip: number;
  /** the rows' statistics are written, as one group of columns */
  statistics: boolean;
}

/**
 * Works on whole rows, one workgroup a row.
 *
 * shape: x: rows of a picture, y: width of the result. x: [rows, width, or 2 × width with a gate]; y: [rows, width]
 */
export function rowsShader({ gate, norm, skip, statistics }: RowsKind): Shader {
  const every = (line: string) => `  for (var d = lane; d < width; d += 64u) { ${line} }`;
  const sumUp = (name: string) => `  scratch[lane] = ${name};
  workgroupBarrier();
  ${name} = 0f;
  for (var l = 0u; l < 64u; l++) { ${name} += scratch[l]; }
  workgroupBarrier();`;
  const moments = (denseDim: string) => `  mean = 0f;
${every("mean += y[out + d];")}
${sumUp("mean")}
  mean /= ${denseDim};
  squares = 0f;
${every("squares += (y[out + d] - mean) * (y[out + d] - mean);")}
${sumUp("squares")}`;
  return shader(
    {
      shape: ["uniform", "vec4u"],
      x: ["read", "array<f32>"],
      vectors: norm ? ["read", "array<f32>"] : undefined, // the norm's weight, then its bias
      y: ["write", "array<f32>"],
      after: statistics ? ["write", "array<vec2f>"] : undefined,
    },
    `${gate ? activations[gate] : ""}
var<workgroup> scratch: array<f32, 64>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) row: vec3u, @builtin(local_invocation_index) lane: u32) {
  let width = shape.y;
  let stride = (width + 3u) / 4u * 4u;
  let start = row.x * ${gate ? "((2u * width + 3u) / 4u * 4u)" : "stride"};
  let out = row.x * stride;
  var mean = 0f;
  var squares = 0f;
${every(`y[out + d] = ${gate ? "activate(x[start + d]) * x[start + width + d]" : "x[start + d]"};`)}
  if (lane < stride - width) { y[out + width + lane] = 0f; }
${
  norm
    ? `${moments(`${norm.denseDim}f`)}
  squares += f32(${norm.denseDim}u - width) * mean * mean;
  let inverse = 1f / sqrt(squares / ${norm.denseDim}f + ${norm.eps}f);
  let isKept = row.x % shape.x < ${skip}u;
${every("y[out + d] = select((y[out + d] - mean) * inverse * vectors[d] + vectors[width + d], y[out + d], isKept);")}`
    : ""
}
${statistics ? `${moments("f32(width)")}\n  if (lane == 0u) { after[row.x] = vec2f(mean, squares); }` : ""}
}`,
  );
}

export const rowsUniform = (rows: number, width: number): Uint32Array =>
  Uint32Array.from([rows, width, 0, align4(width)]);

export interface TurnKind {
  /** norms of queries and keys by head: their epsilon, and the dense head's width, which their statistics count */
  norm?: { eps: number; headDim: number };
  /** pairs of channels are turned by the token's place, whose angles are known or follow from `rows` after a merge */
  rope: false | "known" | "merged";
}

/**
 * Queries and keys between the product that makes them and attention, in place: `normHeads` in src/reference/forward.ts and
 * `rotate` in src/reference/positions.ts. An invocation a token; y: heads, queries first, then keys; z: pictures.
 */
export function turnShader({ norm, rope }: TurnKind): Shader {
  const loop = (line: string, step = 1) => `  for (var c = 0u; c < width; c += ${step}u) { ${line} }`;
  const value = "qkv[at + c * shape.tokenStride]";
  return shader(
    {
      shape: ["uniform", "Shape"],
      heads: ["read", "array<vec2u>"],
      vectors: norm ? ["read", "array<f32>"] : undefined, // weight and bias of q_norm, then of k_norm
      turns: rope === "known" ? ["read", "array<vec2f>"] : undefined, // [inner / 2, tokens]: cosine and sine of the angle
      rows: rope === "merged" ? ["read", "array<vec4f>"] : undefined, // [pictures × tokens], coordinates in z and w
      frequencies: rope === "merged" ? ["read", "array<f32>"] : undefined, // [2, inner / 2]
      qkv: ["write", "array<f32>"],
    },
    `${SHAPE}
${rope === "merged" ? TURN_BY : ""}
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let token = id.x;
  if (token >= shape.tokens) { return; }
  let part = id.y / shape.heads; // 0: queries, 1: keys
  let first = heads[id.y % shape.heads].x;
  let width = heads[id.y % shape.heads].y;
  let at = id.z * shape.pictureSize + (part * shape.inner + first) * shape.tokenStride + token;
${
  norm
    ? `  var mean = 0f;
${loop(`mean += ${value};`)}
  mean /= ${norm.headDim}f;
  var squares = f32(${norm.headDim}u - width) * mean * mean;
${loop(`squares += (${value} - mean) * (${value} - mean);`)}
  let inverse = 1f / sqrt(squares / ${norm.headDim}f + ${norm.eps}f);
  let gain = part * 2u * shape.inner + first;
${loop(`${value} = (${value} - mean) * inverse * vectors[gain + c] + vectors[gain + shape.inner + c];`)}`
    : ""
}
${
  rope
    ? loop(
        `
    let turn = ${rope === "known" ? "turns[(first + c) / 2u * shape.tokens + token]" : angleOf};
    let a = ${value};
    let b = qkv[at + (c + 1u) * shape.tokenStride];
    ${value} = a * turn.x - b * turn.y;
    qkv[at + (c + 1u) * shape.tokenStride] = a * turn.y + b * turn.x;
  `,
        2,
      )
    : ""
}
}`,
  );
}

const angleOf = `turnBy(dot(rows[id.z * shape.tokens + token].zw,
      vec2f(frequencies[(first + c) / 2u], frequencies[(shape.inner + first + c) / 2u])))`;

/**
 * Cosine and sine, to the last bits of f32 where WGSL's own may be 2⁻¹¹ off: the angle less multiples of π/2, which is
 * subtracted in three parts, then polynomials on ±π/4 (Moshier's Cephes, sinf and cosf).
 */
const TURN_BY = `fn turnBy(angle: f32) -> vec2f {
  let quarters = round(angle * 0.6366197723675814f);
  let r = ((angle - quarters * 1.5703125f) - quarters * 4.837512969970703e-4f) - quarters * 7.549789954891882e-8f;
  let s = r * r;
  let sine = r + r * s * (-0.16666654611f + s * (0.0083321608736f - s * 0.00019515295891f));
  let cosine = 1f - 0.5f * s + s * s * (0.04166664568298827f + s * (-0.001388731625493765f + s * 0.00002443315711809948f));
  switch (i32(quarters) & 3) {
    case 1: { return vec2f(-sine, cosine); }
    case 2: { return vec2f(-cosine, -sine); }
    case 3: { return vec2f(sine, -cosine); }
    default: { return vec2f(cosine, sine); }
  }
}`;

/** The same struct as in attention.ts: both kernels read one uniform. */
export const SHAPE = `struct Shape {
  tokens: u32, queries: u32, heads: u32, inner: u32, stride: u32, tokenStride: u32, valueStart: u32, pictureSize: u32,
  mapRows: u32, scale: f32,
}`;
