/** The activations in WGSL: the same as in src/reference/ops.ts. */
import type { Activation } from "../../format/model.ts";

const gate = (inner: string) => `fn activate(x: f32) -> f32 { return ${inner}; }`;

/** Each text defines a function `activate`. */
export const activations: Record<Activation, string> = {
  // x Φ(x). Φ(x) = ½ + x P(x²) / Q(x²) on ±5.4, within 4e-8: the fit of src/engines/simd/assembly/math.ts.
  gelu: `fn activate(x: f32) -> f32 {
  let c = clamp(x, -5.4, 5.4);
  let u = c * c;
  let p = ((((2.3386776838659665e-8 * u + 0.000006359963367894461) * u + 0.0001643181537443285) * u + 0.004650829118367025) * u
    + 0.033371916718992096) * u + 0.3989422453894222;
  let q = ((((0.0000012165880453036116 * u + 0.00007239888173986265) * u + 0.0018589615284998336) * u + 0.02837850138333281) * u
    + 0.2503170793020412) * u + 1;
  return x * (c * (p / q) + 0.5);
}`,
  // tanh overflows on some GPUs for large arguments; beyond ±10 it is ±1 in f32.
  gelu_tanh: gate("0.5 * x * (1 + tanh(clamp(0.7978845608028654 * (x + 0.044715 * x * x * x), -10, 10)))"),
  quick_gelu: gate("x / (1 + exp(-1.702 * x))"),
  relu: gate("max(x, 0)"),
  silu: gate("x / (1 + exp(-x))"),
};
