/** From the last block's tokens to the features: `classify` in src/reference/pooling.ts, without attention pooling. */
import { align4, type Shader, shader } from "./shader.ts";

export interface PoolKind {
  dim: number;
  /** rows of each picture, and those of them that are no patches */
  tokens: number;
  prefixTokens: number;
  /** what the features are, side by side; "two" are the class and the distillation token, as rows of their own */
  pooling: "class" | "two" | "mean" | "class+mean";
  /** epsilons of the norm of each token and of the norm after pooling, where they are there */
  tokenEps?: number;
  pooledEps?: number;
}

export const pooledRows = ({ pooling }: PoolKind): number => (pooling === "two" ? 2 : 1);
export const pooledWidth = ({ pooling, dim }: PoolKind): number => (pooling === "class+mean" ? 2 * dim : dim);

/** Over the invocations of the workgroup. */
const sumUp = (name: string) => `  scratch[lane] = vec2f(${name}, 0f);
  workgroupBarrier();
  ${name} = 0f;
  for (var l = 0u; l < 64u; l++) { ${name} += scratch[l].x; }
  workgroupBarrier();`;

const every = (count: number, line: string) => `  for (var d = lane; d < ${count}u; d += 64u) { ${line} }`;

/**
 * A workgroup a picture, each invocation with every 64th channel. The tokens' statistics are computed 64 at a time.
 *
 * x: [pictures × tokens, dim]; y: [pictures × rows, width]
 */
export function poolShader(kind: PoolKind): Shader {
  const { dim, tokens, prefixTokens, pooling, tokenEps, pooledEps } = kind;
  const [rows, width, stride] = [pooledRows(kind), pooledWidth(kind), align4(pooledWidth(kind))];
  const normed = (token: string) =>
    tokenEps === undefined
      ? `x[(first + ${token}) * ${align4(dim)}u + d]`
      : `(x[(first + ${token}) * ${align4(dim)}u + d] - scratch[${token} - chunk].x) * scratch[${token} - chunk].y`;
  const finished = (value: string, count: string) =>
    tokenEps === undefined ? `${value} / ${count}` : `${value} / ${count} * vectors[d] + vectors[${dim}u + d]`;
  const hasMean = pooling.endsWith("mean");
  const meanAt = width - dim;
  const patches = tokens - prefixTokens;
  return shader(
    {
      x: ["read", "array<f32>"],
      // weight and bias of the tokens' norm, then of the pooled vector's
      vectors: tokenEps !== undefined || pooledEps !== undefined ? ["read", "array<f32>"] : undefined,
      y: ["write", "array<f32>"],
    },
    `
var<workgroup> scratch: array<vec2f, 64>;
${tokenEps === undefined ? "" : statisticsOf(dim, tokenEps)}
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) picture: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = picture.x * ${tokens}u;
  let out = picture.x * ${rows * stride}u;
${every(rows * stride, "y[out + d] = 0f;")}
  for (var chunk = 0u; chunk < ${hasMean ? tokens : rows}u; chunk += 64u) {
${tokenEps === undefined ? "" : `    if (chunk + lane < ${tokens}u) { scratch[lane] = statisticsOf(first + chunk + lane); }\n    workgroupBarrier();`}
    ${pooling === "mean" ? "" : `for (var t = 0u; t < ${rows}u && chunk == 0u; t++) {\n    ${every(dim, `y[out + t * ${stride}u + d] = ${finished(normed("t"), "1f")};`)}\n    }`}
    ${hasMean ? `for (var t = max(chunk, ${prefixTokens}u); t < min(chunk + 64u, ${tokens}u); t++) {\n    ${every(dim, `y[out + ${meanAt}u + d] += ${normed("t")};`)}\n    }` : ""}
    workgroupBarrier();
  }
${hasMean ? every(dim, `y[out + ${meanAt}u + d] = ${finished(`y[out + ${meanAt}u + d]`, `${patches}f`)};`) : ""}
${pooledEps === undefined ? "" : normPooled(kind, pooledEps)}
}`,
  );
}

function statisticsOf(dim: number, eps: number): string {
  const loop = (line: string) => `  for (var d = 0u; d < ${dim}u; d++) { ${line} }`;
  return `fn statisticsOf(token: u32) -> vec2f {
  let row = token * ${align4(dim)}u;
  var mean = 0f;
${loop("mean += x[row + d];")}
  mean /= ${dim}f;
  var squares = 0f;
${loop("squares += (x[row + d] - mean) * (x[row + d] - mean);")}
  return vec2f(mean, 1f / sqrt(squares / ${dim}f + ${eps}f));
}`;
}

function normPooled(kind: PoolKind, eps: number): string {
  const width = pooledWidth(kind);
  const at = kind.tokenEps === undefined ? 0 : 2 * kind.dim;
  return `  var mean = 0f;
${every(width, "mean += y[out + d];")}
${sumUp("mean")}
  mean /= ${width}f;
  var squares = 0f;
${every(width, "squares += (y[out + d] - mean) * (y[out + d] - mean);")}
${sumUp("squares")}
  let inverse = 1f / sqrt(squares / ${width}f + ${eps}f);
${every(width, `y[out + d] = (y[out + d] - mean) * inverse * vectors[${at}u + d] + vectors[${at + width}u + d];`)}`;
}

/** Vectors of length 1, for heads over normalised features; zeros stay zeros. x and y: [pictures, width] */
export function unitShader(width: number): Shader {
  const stride = align4(width);
  return shader(
    { x: ["read", "array<f32>"], y: ["write", "array<f32>"] },
    `
var<workgroup> scratch: array<vec2f, 64>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) picture: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = picture.x * ${stride}u;
  var squares = 0f;
${every(width, "squares += x[row + d] * x[row + d];")}
${sumUp("squares")}
  let inverse = 1f / max(sqrt(squares), 1e-12f);
${every(stride, `y[row + d] = select(0f, x[row + d] * inverse, d < ${width}u);`)}
}`,
  );
}
