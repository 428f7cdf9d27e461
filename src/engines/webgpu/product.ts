/** The linear layers, with what comes before and after them: one kernel for the embedding, qkv, proj, fc1, fc2 and the head. */
import { activations } from "./activation.ts";
import { align4, repeat, type Shader, shader } from "./shader.ts";

/**
 * How a product is shared out: a workgroup of `lanesX` × `lanesY` invocations, each with an accumulator for `rows` rows by
 * `columns` columns. Neighbours in x take neighbouring columns, so their loads of weights are one.
 */
export interface Tile {
  rows: number;
  /** a multiple of 4 */
  columns: number;
  lanesX: number;
  lanesY: number;
  /** invocations in z, each with its share of the sum: for products of few rows, which would leave a GPU idle */
  splits: number;
}

export const tileRows = (tile: Tile): number => tile.rows * tile.lanesY;
export const tileColumns = (tile: Tile): number => tile.columns * tile.lanesX;

/** How a matrix is stored; a u32 holds 1, 2 or 4 consecutive inputs of one output. */
export type WeightForm = "f32" | "f16" | "int8";

/** Row statistics that a product leaves for the layer norm of the next: of each row, by groups of columns. */
export interface Statistics {
  /** columns of a row */
  dim: number;
  /** columns of a group; the last may have fewer */
  groupSize: number;
}

export const statisticsGroups = ({ dim, groupSize }: Statistics): number => Math.ceil(dim / groupSize);

export interface Product {
  inDim: number;
  outDim: number;
  form: WeightForm;
  tile: Tile;
  /** rows of each picture that are computed, and that `x` has of each picture */
  rows: number;
  sourceRows: number;
  /** which of a picture's source rows a row is: the binding `kept` lists them; a number is the first of consecutive ones */
  source: "kept" | number;
  /** x has just the rows that are computed, and only what is added comes from source rows */
  isDense?: boolean;
  /** the rows are normalised as they are loaded, with the statistics that the product before left */
  norm?: Statistics & {
    eps: number;
    /** the norm's weight is multiplied in the shader; f32 weights have it folded in */
    gain: boolean;
  };
  activation?: string;
  /**
   * What is added: `residual` has a row for each source row; `positions` are of the embedding, one row a token, and hold
   * the patch embedding's bias, or all of a prefix token, of which there are so many; `average` is for the second of two heads.
   */
  add?: "residual" | { positions: number } | "average";
  /** "embed": x are pixels, and `offsets` tells where the inputs of a patch lie from its corner on */
  pixels?: boolean;
  /** statistics of the rows that it writes */
  statistics: boolean;
  /** queries and keys are written transposed, [2 × inner, tokens], then the values [tokens, inner] */
  qkv?: { inner: number; queries: number };
}

/** The floats of a picture's queries, keys and values, and where its values begin. */
export function qkvLayout(inner: number, tokens: number): { tokenStride: number; valueStart: number; size: number } {
  const tokenStride = align4(tokens);
  const valueStart = 2 * inner * tokenStride;
  return { tokenStride, valueStart, size: valueStart + tokens * align4(inner) };
}

const each = repeat;
const XYZW = "xyzw";

/**
 * y = act(norm(x) Wᵀ + b) + residual, the same sums as `linear` and `layerNorm` in src/reference/ops.ts.
 *
 * Each invocation keeps its tile of y in registers and goes over the inputs four at a time. There is no workgroup memory
 * for x or W: their loads hit the cache, and invocations side by side load the same x or neighbouring W.
 */
export function productShader(product: Product, packed: boolean): Shader {
  const { inDim, outDim, form, tile, norm, add, qkv, statistics, pixels } = product;
  const { rows: tm, columns, lanesX, lanesY, splits } = tile;
  const [rowsOfTile, columnsOfTile] = [tileRows(tile), tileColumns(tile)];
  const tn = columns / 4;
  const stride = align4(outDim);
  const hasSum = inDim > 0;
  const kept = product.source === "kept";
  const positions = typeof add === "object" ? add.positions : undefined;
  const hasVectors = positions === undefined || (form === "int8" && hasSum);
  return shader(
    {
      call: ["uniform", "vec4u"], // x: pictures
      x: hasSum ? ["read", pixels ? "array<f32>" : "array<vec4f>"] : undefined, // [pictures × sourceRows, inDim rounded up to 4]
      offsets: pixels ? ["read", "array<vec4u>"] : undefined,
      weight: hasSum ? ["read", `array<${form === "f32" ? "f32" : "u32"}>`] : undefined, // [inDim / 1, 2 or 4, outDim]
      vectors: hasVectors ? ["read", "array<f32>"] : undefined, // bias [outDim], int8's scale [outDim], the norm's weight [inDim]
      kept: kept ? ["read", "array<u32>"] : undefined,
      before: norm ? ["read", "array<vec2f>"] : undefined,
      added: add === "residual" || positions !== undefined ? ["read", "array<f32>"] : undefined,
      y: ["write", "array<f32>"],
      after: statistics ? ["write", "array<vec2f>"] : undefined,
    },
    `
${product.activation ? activations[product.activation] : ""}
${norm ? rowStatistics(norm) : ""}
${statistics || splits > 1 ? `var<workgroup> scratch: array<f32, ${Math.max(statistics ? rowsOfTile * lanesX : 0, splits > 1 ? (splits - 1) * tm * columns * lanesX * lanesY : 0)}>;` : ""}
@compute @workgroup_size(${lanesX}, ${lanesY}, ${splits})
fn main(@builtin(workgroup_id) tile: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let lastRow = call.x * ${product.rows}u - 1u;
  let tileRow = tile.y * ${rowsOfTile}u;
  let column = tile.x * ${columnsOfTile}u + lane.x;
${qkv && qkv.queries < product.rows ? skipQueries(product) : ""}
${each(
  tm,
  (i) => `  let row${i} = tileRow + lane.y * ${tm}u + ${i}u;
  let picture${i} = min(row${i}, lastRow) / ${product.rows}u;
  let token${i} = min(row${i}, lastRow) % ${product.rows}u;
  let source${i} = ${pixels ? `picture${i} * ${product.sourceRows}u + kept[token${i}]` : `picture${i} * ${product.sourceRows}u + ${kept ? `kept[token${i}]` : `token${i} + ${product.source}u`}`};
${each(tn, (j) => `  var sum${i}_${j} = vec4f();`)}${norm ? `\n  let norm${i} = statisticsOf(source${i});` : ""}`,
)}
${hasSum ? sums(product, packed) : ""}
${splits > 1 ? joinSplits(tile) : ""}
${each(tn, (j) => finishColumns(product, j))}
${statistics ? writeStatistics(product) : ""}
  if (lane.z > 0u) { return; }
${each(
  tm,
  (i) => `  if (row${i} <= lastRow) {
${each(columns, (c) => {
  const at = `column + ${c * lanesX}u`;
  const value = `sum${i}_${c >> 2}.${XYZW[c & 3]}`;
  if (qkv) return writeQkv(product, i, at, value);
  return `    if (${at} < ${stride}u) { y[row${i} * ${stride}u + ${at}] = select(0f, ${value}, ${at} < ${outDim}u); }`;
})}
  }`,
)}
}`,
  );
}

/** The loop over the inputs, four at a time. */
function sums({ inDim, outDim, form, tile, norm, pixels, isDense }: Product, packed: boolean): string {
  const { rows: tm, columns, lanesX, splits } = tile;
  const tn = columns / 4;
  const quads = align4(inDim) / 4;
  const gain = norm?.gain ? `${form === "int8" ? 2 * outDim : outDim}u + 4u * k` : undefined;
  const load = (i: number) => {
    if (pixels) return `vec4f(${each(4, (q) => `x[source${i} + at.${XYZW[q]}]`, ", ")})`;
    const value = `x[${isDense ? `min(row${i}, lastRow)` : `source${i}`} * ${quads}u + k]`;
    if (!norm) return value;
    return `(${value} - norm${i}.x)${gain ? " * gain" : ""}`;
  };
  return `  for (var k = lane.z; k < ${quads}u; k += ${splits}u) {
${pixels ? "    let at = offsets[k];" : ""}${gain ? `    let gain = vec4f(${each(4, (q) => `vectors[${gain} + ${q}u]`, ", ")});` : ""}
${each(tm, (i) => `    let x${i} = ${load(i)};`)}
${each(tn, (j) => loadWeights(form, outDim, lanesX, j, packed))}
${each(4, (q) => each(tm, (i) => each(tn, (j) => `    sum${i}_${j} = fma(vec4f(x${i}.${XYZW[q]}), w${j}_${q}, sum${i}_${j});`)))}
  }`;
}

/** w0 … w3: of inputs 4 k … 4 k + 3, the weights of four of the invocation's columns. */
function loadWeights(form: WeightForm, outDim: number, lanesX: number, j: number, packed: boolean): string {
  const words = { f32: 4, f16: 2, int8: 1 }[form];
  const word = (n: number, c: number) => `weight[(${words}u * k + ${n}u) * ${outDim}u + column + ${(4 * j + c) * lanesX}u]`;
  if (form === "f32") return each(4, (q) => `    let w${j}_${q} = vec4f(${each(4, (c) => word(q, c), ", ")});`);
  if (form === "f16")
    return each(
      2,
      (n) => `${each(4, (c) => `    let half${j}_${n}_${c} = unpack2x16float(${word(n, c)});`)}
    let w${j}_${2 * n} = vec4f(${each(4, (c) => `half${j}_${n}_${c}.x`, ", ")});
    let w${j}_${2 * n + 1} = vec4f(${each(4, (c) => `half${j}_${n}_${c}.y`, ", ")});`,
    );
  const unpack = (w: string) =>
    packed ? `unpack4xI8(${w})` : `(bitcast<vec4i>(vec4u(${w}) << vec4u(24u, 16u, 8u, 0u)) >> vec4u(24u))`;
  return `${each(4, (c) => `    let quad${j}_${c} = vec4f(${unpack(word(0, c))});`)}
${each(4, (q) => `    let w${j}_${q} = vec4f(${each(4, (c) => `quad${j}_${c}.${XYZW[q]}`, ", ")});`)}`;
}

/** After the sum: int8's scale, the norm's 1/σ, bias, activation, and what is added. */
function finishColumns({ outDim, form, tile, norm, activation, add, inDim }: Product, j: number): string {
  const { rows: tm, lanesX } = tile;
  const columns = each(4, (c) => `min(column + ${(4 * j + c) * lanesX}u, ${outDim - 1}u)`, ", ");
  const stride = align4(outDim);
  const vector = (start: number) => `vec4f(${each(4, (c) => `vectors[${start}u + at${j}.${XYZW[c]}]`, ", ")})`;
  const addedAt = (row: string) => `vec4f(${each(4, (c) => `added[${row} * ${stride}u + at${j}.${XYZW[c]}]`, ", ")})`;
  const isPositions = typeof add === "object";
  const lines = (i: number) => {
    const s = `sum${i}_${j}`;
    const out = [];
    if (isPositions) out.push(`${s} = select(${s}${form === "int8" ? ` * scale${j}` : ""}, vec4f(), token${i} < ${add.positions}u) + ${addedAt(`token${i}`)};`);
    else {
      const factors = [norm ? `norm${i}.y` : "", form === "int8" && inDim > 0 ? `scale${j}` : ""].filter(Boolean);
      out.push(`${s} = ${[s, ...factors].join(" * ")} + bias${j};`);
      if (activation) out.push(`${s} = activate(${s});`);
      if (add === "residual") out.push(`${s} += ${addedAt(`source${i}`)};`);
      if (add === "average")
        out.push(`${s} = 0.5 * (${s} + vec4f(${each(4, (c) => `y[row${i} * ${stride}u + at${j}.${XYZW[c]}]`, ", ")}));`);
    }
    return out.map((line) => `  ${line}`).join("\n");
  };
  return `  let at${j} = vec4u(${columns});
${isPositions ? "" : `  let bias${j} = ${vector(0)};`}
${form === "int8" && inDim > 0 ? `  let scale${j} = ${vector(outDim)};` : ""}
${each(tm, lines)}`;
}

/** In the last block only the queries of the tokens that are read are needed. */
function skipQueries({ rows, tile, qkv }: Product): string {
  const { inner, queries } = qkv!;
  return `  let tileToken = tileRow % ${rows}u;
  if ((tile.x + 1u) * ${tileColumns(tile)}u <= ${inner}u && tileToken >= ${queries}u && tileToken + ${tileRows(tile)}u <= ${rows}u) { return; }`;
}

function writeQkv({ rows, qkv, outDim }: Product, i: number, at: string, value: string): string {
  const { inner } = qkv!;
  const { tokenStride, valueStart, size } = qkvLayout(inner, rows);
  return `    if (${at} < ${2 * inner}u) { y[picture${i} * ${size}u + (${at}) * ${tokenStride}u + token${i}] = ${value}; }
    else if (${at} < ${outDim}u) { y[picture${i} * ${size}u + ${valueStart}u + token${i} * ${align4(inner)}u + ${at} - ${2 * inner}u] = ${value}; }`;
}

/** Sums up what the invocations in z have summed, into the first of them. */
function joinSplits({ rows: tm, columns, lanesX, lanesY, splits }: Tile): string {
  const lanes = lanesX * lanesY;
  const slot = (z: string, i: number, j: number, c: number) =>
    `scratch[((${z}) * ${tm * columns}u + ${i * columns + 4 * j + c}u) * ${lanes}u + lane.y * ${lanesX}u + lane.x]`;
  const all = (line: (i: number, j: number) => string) => each(tm, (i) => each(columns / 4, (j) => line(i, j)));
  return `  if (lane.z > 0u) {
${all((i, j) => each(4, (c) => `    ${slot("lane.z - 1u", i, j, c)} = sum${i}_${j}.${XYZW[c]};`))}
  }
  workgroupBarrier();
  if (lane.z == 0u) {
    for (var z = 0u; z < ${splits - 1}u; z++) {
${all((i, j) => `      sum${i}_${j} += vec4f(${each(4, (c) => slot("z", i, j, c), ", ")});`)}
    }
  }
  workgroupBarrier();`;
}

/** Mean and sum of squared distances from it, of the tile's columns of each row: exact whatever the row's mean is. */
function writeStatistics({ outDim, tile }: Product): string {
  const { rows: tm, columns, lanesX } = tile;
  const width = tileColumns(tile);
  const groups = Math.ceil(outDim / width);
  const total = (value: (c: number) => string) =>
    each(columns, (c) => `select(0f, ${value(c)}, column + ${c * lanesX}u < ${outDim}u)`, " + ");
  const slot = (i: number) => `scratch[(lane.y * ${tm}u + ${i}u) * ${lanesX}u`;
  const gather = (i: number) => each(lanesX, (l) => `${slot(i)} + ${l}u]`, " + ");
  const value = (i: number, c: number) => `sum${i}_${c >> 2}.${XYZW[c & 3]}`;
  return `  let count = f32(min(${width}u, ${outDim}u - tile.x * ${width}u));
  if (lane.z == 0u) {
${each(tm, (i) => `    ${slot(i)} + lane.x] = ${total((c) => value(i, c))};`)}
  }
  workgroupBarrier();
${each(tm, (i) => `  let mean${i} = (${gather(i)}) / count;`)}
  workgroupBarrier();
  if (lane.z == 0u) {
${each(tm, (i) => `    ${slot(i)} + lane.x] = ${total((c) => `(${value(i, c)} - mean${i}) * (${value(i, c)} - mean${i})`)};`)}
  }
  workgroupBarrier();
  if (lane.x == 0u && lane.z == 0u) {
${each(tm, (i) => `    if (row${i} <= lastRow) { after[row${i} * ${groups}u + tile.x] = vec2f(mean${i}, ${gather(i)}); }`)}
  }`;
}

/** Joins the groups' statistics of a row (Chan, Golub, LeVeque 1979). x: mean, y: 1/σ */
function rowStatistics(norm: Statistics & { eps: number }): string {
  const groups = statisticsGroups(norm);
  const { dim, groupSize, eps } = norm;
  const count = `f32(min(${groupSize}u, ${dim}u - g * ${groupSize}u))`;
  return `fn statisticsOf(row: u32) -> vec2f {
  var mean = 0f;
  for (var g = 0u; g < ${groups}u; g++) { mean += before[row * ${groups}u + g].x * ${count}; }
  mean /= ${dim}f;
  var squares = 0f;
  for (var g = 0u; g < ${groups}u; g++) {
    let group = before[row * ${groups}u + g];
    squares += group.y + ${count} * (group.x - mean) * (group.x - mean);
  }
  return vec2f(mean, 1f / sqrt(squares / ${dim}f + ${eps}f));
}`;
}
