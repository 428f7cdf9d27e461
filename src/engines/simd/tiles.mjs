/**
 * Writes generated/tiles.ts: the register tiles of the kernels, in AssemblyScript. AssemblyScript has no arrays of
 * registers, so every accumulator is a variable, and a script writes them out.
 *
 * For each number of rows there is one function for float weights and one for int8. All walk the same way: a step takes
 * 32 bytes of the panel of weights and 4 bytes of each row. The loop over steps is not unrolled, which costs 28 %.
 *
 * V8 has 15 vector registers to give. A fused multiply-add needs fewer of them than a product and a sum, so the relaxed
 * binary has tiles of up to 6 rows and the plain one of up to 4.
 *
 * Where the relaxed dot product is no instruction of the machine (math.ts), int8 goes two steps at a time: their products'
 * sums meet in 16 bits, so that they are widened to 32 once, which is 1.45 times as fast. It takes more registers, so
 * these tiles have 3 rows at most. The panel says whether 16 bits are enough (pack.ts). The plain binary has no such path.
 */
const MOST_ROWS = { relaxed: 6, plain: 4 };
const PAIR_ROWS = 3;

/** @returns the text of generated/tiles.ts */
export function writeTiles() {
  const rows = Array.from({ length: MOST_ROWS.relaxed }, (_, i) => i + 1);
  return `/** Register tiles, written by tiles.mjs. */
import { TileCall } from "../assembly/calls";
import { addPairs, dot, madd } from "../assembly/math";

${rows.map((r) => tile(r, "float")).join("\n")}
${rows.map((r) => tile(r, "int8")).join("\n")}
${allRows("float")}
${allRows("int8")}
`;
}

const indent = (spaces, lines) => lines.map((line) => " ".repeat(spaces) + line).join("\n");

/**
 * One function: dst[row][8] of `rows × tiles` rows. The call's x, dst, residual and ranges are moved on behind them, so that
 * the next tile's function goes on from there.
 */
function tile(rows, kind) {
  const isFloat = kind === "float";
  const each = (spaces, lines) => Array.from({ length: rows }, (_, r) => indent(spaces, [lines(r)].flat())).join("\n");
  const product = isFloat ? (w, c) => `madd(a, ${w}, ${c})` : (w, c) => `dot(${w}, a, ${c})`;
  const start = (half) => (isFloat ? `v128.load(bias, ${half * 16})` : "i32x4.splat(0)");
  return `function ${kind}${rows}(call: TileCall, tiles: i32): void {
  const xStride = call.xStride, weight = call.weight, steps = call.steps, bias = call.bias, dstStride = call.dstStride;
  let x = call.x, dst = call.dst, residual = call.residual;${
    isFloat ? "" : "\n  const scale = call.scale, sum = call.sum, pairs = call.pairs;\n  let ranges = call.ranges;"
  }
  for (; tiles > 0; tiles--) {
${each(4, (r) => `let x${r} = ${r ? `x${r - 1} + xStride` : "x"};`)}
    x = x${rows - 1} + xStride;
    let p = weight;
${each(4, (r) => `let c${r}0 = ${start(0)}, c${r}1 = ${start(1)};`)}
    let i = steps;${isFloat || rows > PAIR_ROWS ? "" : pairLoop(each)}
    if (i > 0) {
      do {
        const w0 = v128.load(p), w1 = v128.load(p, 16);
        p += 32;
        let a: v128;
${each(8, (r) => [
  `a = v128.load32_splat(x${r});`,
  `x${r} += 4;`,
  `c${r}0 = ${product("w0", `c${r}0`)};`,
  `c${r}1 = ${product("w1", `c${r}1`)};`,
])}
      } while (--i);
    }${isFloat ? "" : int8Epilogue(rows, each)}
    if (residual) {
${each(6, (r) => [
  `c${r}0 = f32x4.add(c${r}0, v128.load(residual)); c${r}1 = f32x4.add(c${r}1, v128.load(residual, 16));`,
  "residual += dstStride;",
])}
    }
${each(4, (r) => [`v128.store(dst, c${r}0); v128.store(dst, c${r}1, 16);`, "dst += dstStride;"])}
  }
  call.x = x; call.dst = dst; call.residual = residual;${isFloat ? "" : " call.ranges = ranges;"}
}
`;
}

function pairLoop(each) {
  const sums = (r, half) => `c${r}${half} = addPairs(w${half}, a, w${half + 2}, b, ones, c${r}${half});`;
  return `
    if (ASC_FEATURE_RELAXED_SIMD) {
      if (pairs) {
        const ones = i16x8.splat(1);
        for (i >>= 1; i > 0; i--) {
          const w0 = v128.load(p), w1 = v128.load(p, 16), w2 = v128.load(p, 32), w3 = v128.load(p, 48);
          p += 64;
          let a: v128, b: v128;
${each(10, (r) => [
  `a = v128.load32_splat(x${r});`,
  `b = v128.load32_splat(x${r}, 4);`,
  `x${r} += 8;`,
  sums(r, 0),
  sums(r, 1),
])}
        }
      }
    }`;
}

/** Activations are scale × q + min, weights scale × w: the sum is both scales × Σ w q + min × scale × Σ w. */
function int8Epilogue(rows, each) {
  return `
    {
      const s0 = v128.load(scale), s1 = v128.load(scale, 16), z0 = v128.load(sum), z1 = v128.load(sum, 16);
      const b0 = v128.load(bias), b1 = v128.load(bias, 16);
${each(6, (r) => [
  `const m${r} = v128.load32_splat(ranges, ${r * 8 + 4}), k${r} = v128.load32_splat(ranges, ${r * 8});`,
  `c${r}0 = madd(f32x4.convert_i32x4_s(c${r}0), f32x4.mul(k${r}, s0), madd(m${r}, z0, b0));`,
  `c${r}1 = madd(f32x4.convert_i32x4_s(c${r}1), f32x4.mul(k${r}, s1), madd(m${r}, z1, b1));`,
])}
      ranges += ${rows * 8};
    }`;
}

/** Any number of rows. A last tile of one or two rows would wait for its own sums, so it shares with the one before. */
function allRows(kind) {
  const pairs = `
  if (ASC_FEATURE_RELAXED_SIMD) {
    if (call.pairs) {
      const full = rows / ${PAIR_ROWS};
      if (full > 0) int8${PAIR_ROWS}(call, full);
      rows -= full * ${PAIR_ROWS};
    }
  }`;
  return `export function ${kind}Rows(call: TileCall, rows: i32): void {${kind === "float" ? "" : pairs}
  if (ASC_FEATURE_RELAXED_SIMD) {
${largest(kind, MOST_ROWS.relaxed)}
  } else {
${largest(kind, MOST_ROWS.plain)}
  }
}
`;
}

function largest(kind, most) {
  const half = Math.ceil((most + 1) / 2);
  const cases = Array.from({ length: most }, (_, i) => `case ${i + 1}: ${kind}${i + 1}(call, 1); break;`);
  return indent(4, [
    `let full = rows / ${most};`,
    `let left = rows - full * ${most};`,
    `if (full > 0 && left > 0 && left < ${half - 1}) {`,
    "  full--;",
    `  left += ${most};`,
    "}",
    `if (full > 0) ${kind}${most}(call, full);`,
    `if (left > ${most}) {`,
    `  ${kind}${half}(call, 1);`,
    `  left -= ${half};`,
    "}",
    "switch (left) {",
    ...cases.map((line) => `  ${line}`),
    "}",
  ]);
}
