/** Faults of the WebAssembly kernels; Stryker knows no AssemblyScript. */
import type { Plant } from "./plant.ts";

const SIMD = "test/engines/simd.test.ts";
const kernel = (name: string, file: string, find: string, plant: string, test = SIMD): Plant => ({
  ...{ name, file: `src/engines/simd/assembly/${file}`, find, plant, tests: [test], builds: "kernels" },
});

export const KERNELS: Plant[] = [
  kernel("LayerNorm's variance leaves out the last channels", "norm.ts", "variance += d * d;", "variance += 0 * d;"),
  kernel("LayerNorm has no eps", "norm.ts", "variance / <f32>dim + eps", "variance / <f32>dim"),
  kernel(
    "activations are quantised without their least value",
    "norm.ts",
    "const offset = f32x4.splat(-min * inverse);",
    "const offset = f32x4.splat(0);",
  ),
  kernel(
    "small f16 weights are not raised",
    "linear.ts",
    "f32x4.splat(reinterpret<f32>((127 + 112) << 23))",
    "f32x4.splat(reinterpret<f32>((127 + 111) << 23))",
  ),
  kernel("f16 weights lose their sign", "linear.ts", "v128.or(rest, sign)", "rest"),
  kernel(
    "the last panel is left out",
    "linear.ts",
    "const end = min(panels, (item + 1) * each);",
    "const end = min(panels - 1, (item + 1) * each);",
  ),
  kernel(
    "GELU skips half of a strip",
    "linear.ts",
    "v128.store(p, gelu(v128.load(p, 16)), 16);",
    "v128.store(p, v128.load(p, 16), 16);",
  ),
  kernel("GELU's Φ is a little off", "math.ts", "put(12, 0.033371916718992096);", "put(12, 0.034371916718992096);"),
  kernel("2^t is a little off", "math.ts", "put(6, 0.6931469670549255);", "put(6, 0.6941469670549255);"),
  kernel("scores are not scaled to base 2", "attention.ts", " * 1.4426950408889634;", " * 1.4;"),
  kernel(
    "explained attention is kept from the run before",
    "attention.ts",
    "if (first == 0) memory.fill(map, 0, tokens * 4);",
    "",
  ),
  kernel(
    "resampled pixels are rounded down",
    "resample.ts",
    "const HALF: i32 = 1 << 21;",
    "const HALF: i32 = 0;",
    "test/image/resample.test.ts",
  ),
  kernel(
    "a tap's high word is left out",
    "resample.ts",
    "high = i32x4.add(high, i32x4.dot_i16x8_s(second, v128.load32_splat(entry, 12)));",
    "",
    "test/image/resample.test.ts",
  ),
];
