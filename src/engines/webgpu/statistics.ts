/** Mean and 1/σ of rows, from the partial statistics that the product before has stored. */

/**
 * Joins the statistics of a row's groups of columns (Chan, Golub, LeVeque 1979). x: mean, y: 1/σ
 *
 * @param inDim the row's width and …
 * @param groupSize … columns in a group, each as WGSL
 */
export function statisticsOf(eps: number, inDim: string, groupSize: string): string {
  return `fn statisticsOf(row: u32) -> vec2f {
  let groups = (${inDim} + ${groupSize} - 1u) / ${groupSize};
  var mean = 0f;
  for (var g = 0u; g < groups; g++) { mean += before[row * groups + g].x * countOf(g); }
  mean /= f32(${inDim});
  var squares = 0f;
  for (var g = 0u; g < groups; g++) {
    let group = before[row * groups + g];
    squares += group.y + countOf(g) * (group.x - mean) * (group.x - mean);
  }
  return vec2f(mean, 1f / sqrt(squares / f32(${inDim}) + ${eps}f));
}
fn countOf(group: u32) -> f32 { return f32(min(${groupSize}, ${inDim} - group * ${groupSize})); }`;
}
