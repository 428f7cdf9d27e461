/** The loop of int8 products by `dot4I8Packed`: the inputs are rounded to int8 too, in groups that have a scale each. */
import { repeat } from "./shader.ts";
import { type Tile, tileRows } from "./tiles.ts";

/** Words of four inputs that share a scale. A large input costs the precision of these alone, not of its whole row. */
const GROUP = 8;

/** What the invocations of a workgroup share: one group of each of their rows. */
export function dotMemory(tile: Tile): string {
  const rows = tileRows(tile);
  return `var<workgroup> words: array<array<u32, ${rows}>, ${GROUP}>;
var<workgroup> scales: array<f32, ${rows}>;
var<workgroup> means: array<f32, ${rows}>;`;
}

/**
 * Σ over groups of scale × Σ round(x / scale) w, where scale is max |x| / 127 of the group.
 *
 * @param hasNorm `norms` has the mean of each row, and `vectors` the weight of the layer norm
 * @param isDense as in `ProductKind`
 *
 * The invocations of a workgroup round the rows of its tile once, each other rows, and then all read them.
 */
export function dotLoop(tile: Tile, hasNorm: boolean, isDense = false): string {
  const { rows: tm, columns, lanesX, lanesY } = tile;
  const [rows, lanes, tn] = [tileRows(tile), lanesX * lanesY, columns / 4];
  const gain = `vec4f(${repeat(4, (c) => `vectors[gainAt + 4u * q + ${c}u]`, ", ")})`;
  const sums = (line: (i: number, j: number) => string) => repeat(tm, (i) => repeat(tn, (j) => line(i, j)));
  return `  let quads = (shape.inDim + 3u) / 4u;
${hasNorm ? `  for (var i = 0u; i < ${tm}u && lane.x == 0u; i++) { means[lane.y * ${tm}u + i] = norms[i].x; }\n  workgroupBarrier();` : ""}
  for (var k = 0u; k < quads; k += ${GROUP}u) {
    let count = min(${GROUP}u, quads - k);
    for (var r = lane.y * ${lanesX}u + lane.x; r < ${rows}u; r += ${lanes}u) {
      let row = min(tileRow + r, lastRow);
      let source = ${isDense ? "row" : "sourceOf(row)"} * quads + k;
      let gainAt = 2u * shape.outDim + 4u * k;
      var most = vec4f(1e-30);
${repeat(GROUP, (q) => `      var x${q} = vec4f();\n      if (${q}u < count) { let q = ${q}u; x${q} = ${hasNorm ? `(x[source + q] - means[r]) * ${gain}` : "x[source + q]"}; most = max(most, abs(x${q})); }`)}
      let scale = max(max(most.x, most.y), max(most.z, most.w)) / 127f;
${repeat(GROUP, (q) => `      words[${q}][r] = pack4xI8(vec4i(round(x${q} / scale)));`)}
      scales[r] = scale;
    }
    workgroupBarrier();
${sums((i, j) => `    var dot${i}_${j} = vec4i();`)}
    for (var q = 0u; q < count; q++) {
      let at = (k + q) * shape.outDim + column;
${repeat(columns, (c) => `      let w${c} = weight[at + ${c * lanesX}u];`)}
${repeat(tm, (i) => `      let x${i} = words[q][lane.y * ${tm}u + ${i}u];`)}
${sums((i, j) => `      dot${i}_${j} += vec4i(${repeat(4, (c) => `dot4I8Packed(x${i}, w${4 * j + c})`, ", ")});`)}
    }
${repeat(tm, (i) => `    let scale${i} = scales[lane.y * ${tm}u + ${i}u];`)}
${sums((i, j) => `    sum${i}_${j} += vec4f(dot${i}_${j}) * scale${i};`)}
    workgroupBarrier();
  }`;
}
