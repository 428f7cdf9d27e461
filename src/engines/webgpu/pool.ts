/** From the last block's tokens to the features. */
import { align4, type Shader, shader } from "./shader.ts";

/**
 * The final norm of the tokens that are read: `layerNorm` in src/reference/ops.ts. A workgroup a token.
 *
 * x and y: [pictures × tokens, dim]
 */
export function poolShader({ dim, eps }: { dim: number; eps: number }): Shader {
  const stride = align4(dim);
  const every = (line: string) => `  for (var d = lane; d < ${dim}u; d += 64u) { ${line} }`;
  const total = (name: string) => `  scratch[lane] = ${name};
  workgroupBarrier();
  ${name} = 0f;
  for (var l = 0u; l < 64u; l++) { ${name} += scratch[l]; }
  workgroupBarrier();`;
  return shader(
    {
      x: ["read", "array<f32>"],
      vectors: ["read", "array<f32>"], // the norm's weight, then its bias
      y: ["write", "array<f32>"],
    },
    `
var<workgroup> scratch: array<f32, 64>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) token: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = token.x * ${stride}u;
  var mean = 0f;
${every("mean += x[row + d];")}
${total("mean")}
  mean /= ${dim}f;
  var squares = 0f;
${every("squares += (x[row + d] - mean) * (x[row + d] - mean);")}
${total("squares")}
  let inverse = 1f / sqrt(squares / ${dim}f + ${eps}f);
${every(`y[row + d] = (x[row + d] - mean) * inverse * vectors[d] + vectors[${dim}u + d];`)}
  if (lane < ${stride - dim}u) { y[row + ${dim}u + lane] = 0f; }
}`,
  );
}
