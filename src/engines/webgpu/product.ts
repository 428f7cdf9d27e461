/**
 * The linear layers, with the operations before and after them: one kernel for the embedding, qkv, proj, fc1, fc2 and
 * the head.
 */
import type { Activation } from "../../format/model.ts";
import { activations } from "./activation.ts";
import { dotLoop, dotMemory } from "./dots.ts";
import { align4, repeat, type Shader, shader } from "./shader.ts";
import { statisticsOf } from "./statistics.ts";
import { type Tile, tileColumns, tileRows } from "./tiles.ts";

/** How a matrix is stored; a u32 holds 1, 2 or 4 consecutive inputs of one output. */
export type WeightForm = "f32" | "f16" | "int8";

/** What a product computes: part of its shader's text. Layers that differ in their sizes alone share a shader. */
export interface ProductKind {
  form: WeightForm;
  tile: Tile;
  /** int8 is multiplied by `dot4I8Packed`, where the inputs are no pixels and the sum is not shared out */
  packed: boolean;
  /** x are pixels, and `offsets` has the offsets of a patch's inputs from its first pixel */
  pixels?: boolean;
  /** a row's place among a picture's source rows is listed in `kept`; else rows are consecutive */
  gathers?: boolean;
  /** x has just the rows that are computed, and only what is added comes from source rows */
  isDense?: boolean;
  /** the epsilon of the layer norm that the rows go through as they are loaded; f32 weights have its weight folded in */
  normEps?: number;
  activation?: Activation;
  /**
   * What is added: `residual` has a row for each source row; `positions` a row a token, with the patch embedding's bias or
   * all of a prefix token; `average` is for the second of two heads.
   */
  add?: "residual" | "positions" | "average";
  /** statistics of the rows that it writes, for the layer norm of the next product */
  statistics?: boolean;
  /** queries and keys are written transposed, [2 × inner, tokens], then the values [tokens, inner] */
  qkv?: boolean;
  /** a picture's rows become one: the first gives its first `inner` channels, the second the next, and so on */
  diagonal?: boolean;
}

export const hasDots = ({ form, packed, pixels, tile }: ProductKind): boolean =>
  packed && form === "int8" && !pixels && tile.splits === 1;

/** The sizes of a product, in the order of `Shape` in the shader. */
export interface ProductShape {
  inDim: number;
  outDim: number;
  /** rows of each picture that are computed, and that the source has of each picture (of pixels, their number) */
  rows: number;
  sourceRows: number;
  /** the first source row, where they are consecutive */
  sourceStart?: number;
  /** of the statistics that the product before left: their groups of columns */
  groupSize?: number;
  /** rows that `positions` holds whole */
  prefixTokens?: number;
  /** of qkv: channels of q, and the tokens whose queries are needed, the first so many; of `diagonal`: channels a row */
  inner?: number;
  queries?: number;
}

/** The floats of a picture's queries, keys and values, and where its values begin. */
export function qkvLayout(inner: number, tokens: number): { tokenStride: number; valueStart: number; size: number } {
  const tokenStride = align4(tokens);
  const valueStart = 2 * inner * tokenStride;
  return { tokenStride, valueStart, size: valueStart + tokens * align4(inner) };
}

const SHAPE = `struct Shape {
  inDim: u32, outDim: u32, rows: u32, sourceRows: u32, sourceStart: u32, groupSize: u32, prefixTokens: u32,
  inner: u32, queries: u32, tokenStride: u32, valueStart: u32, pictureSize: u32,
}`;

export function productUniform(shape: ProductShape): Uint32Array {
  const { inDim, outDim, rows, sourceRows, sourceStart = 0, groupSize = 1, prefixTokens = 0 } = shape;
  const { inner = 0, queries = rows } = shape;
  const { tokenStride, valueStart, size } = qkvLayout(inner, rows);
  const sizes = [inDim, outDim, rows, sourceRows, sourceStart, groupSize, prefixTokens];
  return Uint32Array.from([...sizes, inner, queries, tokenStride, valueStart, size]);
}

const XYZW = "xyzw";

/**
 * y = act(norm(x) Wᵀ + b) + what is added, the same sums as `linear` and `layerNorm` in src/reference/ops.ts.
 *
 * Each invocation keeps its tile of y in registers and goes over the inputs four at a time. There is no workgroup memory
 * for x or W: their loads hit the cache, as invocations side by side load the same x and neighbouring W.
 */
export function productShader(kind: ProductKind): Shader {
  const { form, tile, normEps, add, qkv, statistics, pixels, gathers, activation } = kind;
  const { rows: tm, columns, lanesX, lanesY, splits } = tile;
  const lanes = lanesX * lanesY;
  const scratch = Math.max(statistics ? tm * lanes : 0, (splits - 1) * tm * columns * lanes);
  const rowsAndColumns = (line: (i: number, j: number) => string) =>
    repeat(tm, (i) => repeat(columns / 4, (j) => line(i, j)));
  return shader(
    {
      call: ["uniform", "vec4u"], // x: pictures
      shape: ["uniform", "Shape"],
      x: ["read", pixels ? "array<f32>" : "array<vec4f>"], // [rows of all pictures, inDim rounded up to 4]
      offsets: pixels ? ["read", "array<vec4u>"] : undefined,
      weight: ["read", `array<${form === "f32" ? "f32" : "u32"}>`], // [inDim / inputs of a word, outDim]
      // bias [outDim], int8's scale [outDim], the norm's weight [inDim], those that are there
      vectors: add !== "positions" || form === "int8" ? ["read", "array<f32>"] : undefined,
      kept: gathers ? ["read", "array<u32>"] : undefined,
      before: normEps !== undefined ? ["read", "array<vec2f>"] : undefined,
      added: add === "residual" || add === "positions" ? ["read", "array<f32>"] : undefined,
      y: ["write", "array<f32>"],
      after: statistics ? ["write", "array<vec2f>"] : undefined,
    },
    `${SHAPE}
${activation ? activations[activation] : ""}
${hasDots(kind) ? dotMemory(tile) : form === "int8" ? UNPACK_QUAD : ""}
${normEps !== undefined ? statisticsOf(normEps, "shape.inDim", "shape.groupSize") : ""}
${scratch ? `var<workgroup> scratch: array<f32, ${scratch}>;` : ""}
fn sourceOf(row: u32) -> u32 {
  return row / shape.rows * shape.sourceRows + ${gathers ? "kept[row % shape.rows]" : "row % shape.rows + shape.sourceStart"};
}
@compute @workgroup_size(${lanesX}, ${lanesY}, ${splits})
fn main(@builtin(workgroup_id) tile: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let lastRow = call.x * shape.rows - 1u;
  let tileRow = tile.y * ${tm * lanesY}u;
  let column = tile.x * ${columns * lanesX}u + lane.x;
${qkv ? skipQueries(tile) : ""}
  // Rows past the last are computed as the last and not written.
  var sources: array<u32, ${tm}>;
  ${normEps !== undefined ? `var norms: array<vec2f, ${tm}>;` : ""} // mean and 1/σ
  for (var i = 0u; i < ${tm}u; i++) {
    sources[i] = sourceOf(min(tileRow + lane.y * ${tm}u + i, lastRow));
${normEps !== undefined ? "    norms[i] = statisticsOf(sources[i]);" : ""}
  }
${rowsAndColumns((i, j) => `  var sum${i}_${j} = vec4f();`)}
${hasDots(kind) ? dotLoop(tile, normEps !== undefined, kind.isDense) : loop(kind)}
  var sums = array<f32, ${tm * columns}>(
${rowsAndColumns((i, j) => `    ${repeat(4, (c) => `sum${i}_${j}.${XYZW[c]}`, ", ")},`)}
  );
${splits > 1 ? joinSplits(tile) : ""}
  if (lane.z == 0u) {
${finish(kind)}
  }
${statistics ? writeStatistics(tile) : ""}
}`,
  );
}

/** The loop over the inputs, four at a time. */
function loop({ form, tile, normEps, pixels, isDense }: ProductKind): string {
  const { rows: tm, columns, lanesX, splits } = tile;
  const tn = columns / 4;
  const gains = normEps !== undefined && form !== "f32";
  const load = (i: number) => {
    if (pixels) return `vec4f(${repeat(4, (q) => `x[source${i} + at.${XYZW[q]}]`, ", ")})`;
    if (normEps === undefined) return `x[source${i} + k]`;
    return `(x[source${i} + k] - norms[${i}].x)${gains ? " * gain" : ""}`;
  };
  const start = (i: number) => {
    if (pixels) return `sources[${i}]`;
    return `${isDense ? `min(tileRow + lane.y * ${tm}u + ${i}u, lastRow)` : `sources[${i}]`} * quads`;
  };
  const gainAt = `${form === "int8" ? "2u * shape.outDim" : "shape.outDim"} + 4u * k`;
  return `  let quads = (shape.inDim + 3u) / 4u;
${repeat(tm, (i) => `  let source${i} = ${start(i)};`)}
  for (var k = lane.z; k < quads; k += ${splits}u) {
${pixels ? "    let at = offsets[k];" : ""}
${gains ? `    let gain = vec4f(${repeat(4, (q) => `vectors[${gainAt} + ${q}u]`, ", ")});` : ""}
${repeat(tm, (i) => `    let x${i} = ${load(i)};`)}
${repeat(tn, (j) => loadWeights(form, lanesX, j))}
${repeat(4, (q) => repeat(tm, (i) => repeat(tn, (j) => `    sum${i}_${j} = fma(vec4f(x${i}.${XYZW[q]}), w${j}_${q}, sum${i}_${j});`)))}
  }`;
}

/** w0 … w3: of inputs 4 k … 4 k + 3, the weights of four of the invocation's columns. */
function loadWeights(form: WeightForm, lanesX: number, j: number): string {
  const words = { f32: 4, f16: 2, int8: 1 }[form];
  const word = (n: number, c: number) =>
    `weight[(${words}u * k + ${n}u) * shape.outDim + column + ${(4 * j + c) * lanesX}u]`;
  if (form === "f32") return repeat(4, (q) => `    let w${j}_${q} = vec4f(${repeat(4, (c) => word(q, c), ", ")});`);
  if (form === "f16")
    return repeat(
      2,
      (n) => `${repeat(4, (c) => `    let half${j}_${n}_${c} = unpack2x16float(${word(n, c)});`)}
    let w${j}_${2 * n} = vec4f(${repeat(4, (c) => `half${j}_${n}_${c}.x`, ", ")});
    let w${j}_${2 * n + 1} = vec4f(${repeat(4, (c) => `half${j}_${n}_${c}.y`, ", ")});`,
    );
  return `${repeat(4, (c) => `    let quad${j}_${c} = unpackQuad(${word(0, c)});`)}
${repeat(4, (q) => `    let w${j}_${q} = vec4f(${repeat(4, (c) => `quad${j}_${c}.${XYZW[q]}`, ", ")});`)}`;
}

const UNPACK_QUAD = `fn unpackQuad(word: u32) -> vec4f {
  return vec4f(bitcast<vec4i>(vec4u(word) << vec4u(24u, 16u, 8u, 0u)) >> vec4u(24u));
}`;

/** After the sum: the norm's 1/σ, int8's scale, bias, activation, what is added; then the result is written. */
function finish({ form, tile, normEps, add, activation, qkv, diagonal }: ProductKind): string {
  const { rows: tm, columns, lanesX } = tile;
  const scale = form === "int8" ? " * vectors[shape.outDim + at]" : "";
  const added = (row: string) => `added[${row} * stride + at]`;
  const lines = [`var value = sums[i * ${columns}u + c]${normEps !== undefined ? " * norms[i].y" : ""}${scale};`];
  if (add === "positions")
    lines.push(`value = select(value, 0f, row % shape.rows < shape.prefixTokens) + ${added("row % shape.rows")};`);
  else lines.push("value += vectors[at];");
  if (activation) lines.push("value = activate(value);");
  if (add === "residual") lines.push(`value += ${added("sources[i]")};`);
  if (add === "average") lines.push("value = 0.5 * (value + y[row * stride + at]);");
  return `    let stride = (shape.outDim + 3u) / 4u * 4u;
    for (var i = 0u; i < ${tm}u; i++) {
      let row = tileRow + lane.y * ${tm}u + i;
      if (row > lastRow) { break; }
      for (var c = 0u; c < ${columns}u; c++) {
        let at = column + c * ${lanesX}u;
        if (at < shape.outDim) {
${lines.map((line) => `          ${line}`).join("\n")}
          sums[i * ${columns}u + c] = value;
          ${qkv ? writeQkv() : writeRow(diagonal)}
        }${qkv ? "" : ` else if (at < stride) { y[${diagonal ? "row / shape.rows" : "row"} * stride + at] = 0f; } // the next product reads whole vec4s`}
      }
    }`;
}

function writeRow(diagonal = false): string {
  if (!diagonal) return "y[row * stride + at] = value;";
  return "if (at / shape.inner == row % shape.rows) { y[row / shape.rows * stride + at] = value; }";
}

function writeQkv(): string {
  return `let picture = row / shape.rows * shape.pictureSize;
          let token = row % shape.rows;
          let channel = at - 2u * shape.inner;
          if (at < 2u * shape.inner) { y[picture + at * shape.tokenStride + token] = value; }
          else { y[picture + shape.valueStart + token * ((shape.inner + 3u) / 4u * 4u) + channel] = value; }`;
}

/** Skips queries: in the last block only those of the tokens that the pooling reads are needed. */
function skipQueries(tile: Tile): string {
  const [rows, columns] = [tileRows(tile), tileColumns(tile)];
  return `  let firstToken = tileRow % shape.rows;
  let areUnread = firstToken >= shape.queries && firstToken + ${rows}u <= shape.rows;
  if (areUnread && (tile.x + 1u) * ${columns}u <= shape.inner) { return; }`;
}

/** The first invocation in z adds up the sums of all of them. */
function joinSplits({ rows: tm, columns, lanesX, lanesY, splits }: Tile): string {
  const lanes = lanesX * lanesY;
  const slot = (z: string) => `scratch[((${z}) * ${tm * columns}u + i) * ${lanes}u + lane.y * ${lanesX}u + lane.x]`;
  return `  for (var i = 0u; i < ${tm * columns}u && lane.z > 0u; i++) { ${slot("lane.z - 1u")} = sums[i]; }
  workgroupBarrier();
  for (var i = 0u; i < ${tm * columns}u && lane.z == 0u; i++) {
    for (var z = 0u; z < ${splits - 1}u; z++) { sums[i] += ${slot("z")}; }
  }
  workgroupBarrier();`;
}

/** Mean and sum of squared distances from it, of the tile's columns of each row: exact whatever the row's mean is. */
function writeStatistics(tile: Tile): string {
  const { rows: tm, columns, lanesX } = tile;
  const width = tileColumns(tile);
  const share = (value: string) => `  for (var i = 0u; i < ${tm}u && lane.z == 0u; i++) {
    var total = 0f;
    for (var c = 0u; c < ${columns}u; c++) {
      if (column + c * ${lanesX}u < shape.outDim) {
        let value = sums[i * ${columns}u + c];
        total += ${value};
      }
    }
    scratch[(lane.y * ${tm}u + i) * ${lanesX}u + lane.x] = total;
  }
  workgroupBarrier();`;
  const gather = `var total = 0f;
    for (var l = 0u; l < ${lanesX}u; l++) { total += scratch[(lane.y * ${tm}u + i) * ${lanesX}u + l]; }`;
  return `  let count = f32(min(${width}u, shape.outDim - tile.x * ${width}u));
  var means: array<f32, ${tm}>;
${share("value")}
  for (var i = 0u; i < ${tm}u; i++) {
    ${gather}
    means[i] = total / count;
  }
  workgroupBarrier();
${share("(value - means[i]) * (value - means[i])")}
  for (var i = 0u; i < ${tm}u && lane.x == 0u && lane.z == 0u; i++) {
    ${gather}
    let row = tileRow + lane.y * ${tm}u + i;
    if (row <= lastRow) { after[row * ((shape.outDim + ${width - 1}u) / ${width}u) + tile.x] = vec2f(means[i], total); }
  }`;
}
