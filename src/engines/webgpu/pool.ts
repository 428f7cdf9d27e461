/** From the last block's tokens to the features: `classify` of src/reference/pooling.ts without its linears. */
import { align4, repeat, type Shader, shader } from "./shader.ts";
import { statisticsOf } from "./statistics.ts";

export interface PoolKind {
  dim: number;
  /** rows of each picture, and those of them that are no patches */
  tokens: number;
  prefixTokens: number;
  /** the norm of each token, where it is there: its epsilon, and the groups of columns whose statistics the last product left */
  tokenNorm?: { eps: number; groupSize: number };
  /** rows stand for several patches */
  sizes?: boolean;
}

export interface TokenPoolKind extends PoolKind {
  /** what the features are, side by side; "two" are the class and the distillation token, as rows of their own */
  pooling: "class" | "two" | "mean" | "class+mean";
  /** patches that the rows stand for */
  patches: number;
  /** epsilon of the norm after pooling, where it is there */
  pooledEps?: number;
}

export const pooledRows = ({ pooling }: Pick<TokenPoolKind, "pooling">): number => (pooling === "two" ? 2 : 1);
export const pooledWidth = ({ pooling, dim }: Pick<TokenPoolKind, "pooling" | "dim">): number =>
  pooling === "class+mean" ? 2 * dim : dim;

/** Over the invocations of the workgroup. */
const sumUp = (name: string) => `  scratch[lane] = vec2f(${name}, 0f);
  workgroupBarrier();
  ${name} = 0f;
  for (var l = 0u; l < 64u; l++) { ${name} += scratch[l].x; }
  workgroupBarrier();`;

const every = (count: number, line: string) => `  for (var d = lane; d < ${count}u; d += 64u) { ${line} }`;

/** The inputs of pooling: tokens, the inputs of their norm, and the number of patches that each stands for. */
function inputs({ tokenNorm, sizes }: PoolKind): Parameters<typeof shader>[0] {
  return {
    x: ["read", "array<f32>"], // [pictures × tokens, dim]
    before: tokenNorm ? ["read", "array<vec2f>"] : undefined,
    rows: sizes ? ["read", "array<vec4f>"] : undefined, // [pictures × tokens]: size and its logarithm
  };
}

/** `centreOf`: mean and 1/σ of a token where it has a norm, else 0 and 1. */
function centreOf({ dim, tokenNorm }: PoolKind): string {
  if (!tokenNorm) return "fn centreOf(token: u32) -> vec2f { return vec2f(0f, 1f); }";
  return `${statisticsOf(tokenNorm.eps, `${dim}u`, `${tokenNorm.groupSize}u`)}
fn centreOf(token: u32) -> vec2f { return statisticsOf(token); }`;
}

/** One workgroup a picture; each invocation computes every 64th channel. y: [pictures × rows, width] */
export function poolShader(kind: TokenPoolKind): Shader {
  const { dim, tokens, pooling, tokenNorm, pooledEps } = kind;
  const [rows, width, stride] = [pooledRows(kind), pooledWidth(kind), align4(pooledWidth(kind))];
  const finished = (value: string) => (tokenNorm ? `${value} * vectors[d] + vectors[${dim}u + d]` : value);
  const classTokens = `  for (var t = 0u; t < ${rows}u; t++) {
    let centre = centreOf(first + t);
  ${every(dim, `y[out + t * ${stride}u + d] = ${finished(`(x[(first + t) * ${align4(dim)}u + d] - centre.x) * centre.y`)};`)}
  }`;
  return shader(
    {
      ...inputs(kind),
      // weight and bias of the tokens' norm, then of the pooled vector's
      vectors: tokenNorm || pooledEps !== undefined ? ["read", "array<f32>"] : undefined,
      y: ["write", "array<f32>"],
    },
    `
var<workgroup> scratch: array<vec2f, 64>; // the mean of a token, and 1/σ times its share in the mean of all
${centreOf(kind)}
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) picture: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = picture.x * ${tokens}u;
  let out = picture.x * ${rows * stride}u;
  if (lane < ${stride - width}u) {
    for (var t = 0u; t < ${rows}u; t++) { y[out + t * ${stride}u + ${width}u + lane] = 0f; }
  }
${pooling === "mean" ? "" : classTokens}
${pooling.endsWith("mean") ? meanOf(kind, finished) : ""}
${pooledEps === undefined ? "" : normPooled(kind, pooledEps)}
}`,
  );
}

/** @param finished what becomes of a mean over tokens in channel `d` */
function meanOf(kind: TokenPoolKind, finished: (value: string) => string): string {
  const { dim, tokens, prefixTokens, patches, sizes } = kind;
  const shares = Math.ceil(dim / 64);
  const share = sizes ? `rows[first + chunk + lane].x / ${patches}f` : `${1 / patches}f`;
  const at = `(first + chunk + t) * ${align4(dim)}u + lane`;
  const write = `if (d < ${dim}u) { y[out + ${pooledWidth(kind) - dim}u + d] =`;
  return `${repeat(shares, (c) => `  var mean${c} = 0f;`)}
  for (var chunk = ${prefixTokens}u; chunk < ${tokens}u; chunk += 64u) {
    if (chunk + lane < ${tokens}u) {
      let centre = centreOf(first + chunk + lane);
      scratch[lane] = vec2f(centre.x, centre.y * ${share});
    }
    workgroupBarrier();
    for (var t = 0u; t < min(64u, ${tokens}u - chunk); t++) {
${repeat(shares, (c) => `      mean${c} += (x[${at} + ${64 * c}u] - scratch[t].x) * scratch[t].y;`)}
    }
    workgroupBarrier();
  }
${repeat(shares, (c) => `  { let d = lane + ${64 * c}u; ${write} ${finished(`mean${c}`)}; } }`)}`;
}

function normPooled(kind: TokenPoolKind, eps: number): string {
  const width = pooledWidth(kind);
  const at = kind.tokenNorm ? 2 * kind.dim : 0;
  return `  storageBarrier(); // other invocations have written some of the channels
  var mean = 0f;
${every(width, "mean += y[out + d];")}
${sumUp("mean")}
  mean /= ${width}f;
  var squares = 0f;
${every(width, "squares += (y[out + d] - mean) * (y[out + d] - mean);")}
${sumUp("squares")}
  let inverse = 1f / sqrt(squares / ${width}f + ${eps}f);
${every(width, `y[out + d] = (y[out + d] - mean) * inverse * vectors[${at}u + d] + vectors[${at + width}u + d];`)}`;
}

/**
 * What each head of attention pooling reads from the patches: the mean of their normed vectors, weighted by the softmax
 * of the head's learned query on them. The values' weights come after it, as they are linear. A workgroup a head and
 * picture, which has 64 patches at a time (online softmax, as in attention.ts).
 *
 * queries: [heads, dim], times the norm's weight; its bias adds the same to all scores, so it cancels.
 * y: [pictures × heads, dim]
 */
export function attentionPoolShader(kind: PoolKind): Shader {
  const { dim, tokens, prefixTokens, tokenNorm, sizes } = kind;
  const stride = align4(dim);
  const shares = Math.ceil(stride / 64);
  const channels = (line: (c: number) => string) => repeat(shares, line);
  const finished = (c: number) =>
    tokenNorm
      ? `select(0f, out${c} / total * vectors[lane + ${64 * c}u] + vectors[${dim + 64 * c}u + lane], lane + ${64 * c}u < ${dim}u)`
      : `out${c} / total`;
  return shader(
    {
      ...inputs(kind),
      queries: ["read", "array<f32>"],
      vectors: tokenNorm ? ["read", "array<f32>"] : undefined, // the norm's weight and bias
      y: ["write", "array<f32>"],
    },
    `
var<workgroup> scores: array<f32, 64>;
var<workgroup> centres: array<vec2f, 64>;
${centreOf(kind)}
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = group.y * ${tokens}u;
  var greatest = -1e30f;
  var total = 0f;
${channels((c) => `  var out${c} = 0f;`)}
  for (var chunk = ${prefixTokens}u; chunk < ${tokens}u; chunk += 64u) {
    var score = -1e30f;
    if (chunk + lane < ${tokens}u) {
      let token = first + chunk + lane;
      let centre = centreOf(token);
      score = 0f;
      for (var d = 0u; d < ${dim}u; d++) {
        score = fma(x[token * ${stride}u + d] - centre.x, queries[group.x * ${dim}u + d], score);
      }
      score = score * centre.y${sizes ? " + rows[token].y" : ""};
      centres[lane] = centre;
    }
    scores[lane] = score;
    workgroupBarrier();
    let before = greatest;
    for (var t = 0u; t < 64u; t++) { greatest = max(greatest, scores[t]); }
    let shrink = exp(before - greatest);
    total *= shrink;
${channels((c) => `    out${c} *= shrink;`)}
    for (var t = 0u; t < min(64u, ${tokens}u - chunk); t++) {
      let p = exp(scores[t] - greatest);
      total += p;
      let at = (first + chunk + t) * ${stride}u + lane;
${channels((c) => `      out${c} = fma(p * centres[t].y, x[at + ${64 * c}u] - centres[t].x, out${c});`)}
    }
    workgroupBarrier();
  }
  let out = (group.y * groups.x + group.x) * ${stride}u + lane;
${channels((c) => `  if (lane + ${64 * c}u < ${stride}u) { y[out + ${64 * c}u] = ${finished(c)}; }`)}
}`,
  );
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
