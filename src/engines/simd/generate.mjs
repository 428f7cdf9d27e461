/**
 * Builds the WASM binaries (the engine's two, and the resampler) and writes each as a TypeScript module that holds it
 * deflated and in base64 (which gzip could not squeeze any more), so that no bundler needs to know about .wasm files:
 *   node src/engines/simd/generate.mjs  →  generated/relaxed.ts, generated/plain.ts, generated/resample.ts
 *
 * Does nothing when they were made from these sources. Prints the size of what it builds.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { deflateRawSync } from "node:zlib";

const HERE = dirname(fileURLToPath(import.meta.url));
const OUT = join(HERE, "generated");

/** Rows of the largest register tile, 8 outputs wide: V8 has 15 vector registers to give; mul + add needs more of them. */
const ROWS = { relaxed: 6, plain: 4 };
/** The same where int8 products are summed in pairs, which takes more registers; the plain binary does not do that. */
const PAIR_ROWS = { relaxed: 3, plain: 0 };
const SHARED = ["--importMemory", "--sharedMemory", "--maximumMemory", "65536"];
const BINARIES = {
  relaxed: { entry: "index", features: ["threads", "simd", "relaxed-simd"], memory: SHARED },
  plain: { entry: "index", features: ["threads", "simd"], memory: SHARED },
  resample: { entry: "resample", features: ["simd"], memory: [] },
};

const INT8_PARAMS = ", scale: usize, sum: usize, ranges: usize, pairs: bool";
const INT8_ARGUMENTS = ", scale, sum, ranges, pairs";

const hash = sourcesHash();
const stale = Object.keys(BINARIES).filter((name) => !isCurrent(name));
if (stale.length) await build(stale);

async function build(names) {
  const { default: asc } = await import("assemblyscript/asc");
  mkdirSync(OUT, { recursive: true });
  for (const name of names) {
    const { entry, features, memory } = BINARIES[name];
    const files = new Map(ROWS[name] ? [["assembly/tiles.ts", tiles(ROWS[name], PAIR_ROWS[name])]] : []);
    let binary;
    const { error, stderr } = await asc.main(
      [
        `assembly/${entry}.ts`,
        "--outFile",
        "out.wasm",
        "-O3",
        "--noAssert",
        "--converge",
        "--runtime",
        "stub",
        "--use",
        "abort=",
        ...memory,
        ...features.flatMap((feature) => ["--enable", feature]),
      ],
      {
        readFile: (source, base) => {
          const path = source.replaceAll("\\", "/");
          if (files.has(path)) return files.get(path);
          const file = join(base ?? "", path);
          return existsSync(join(HERE, file)) ? readFileSync(join(HERE, file), "utf8") : null;
        },
        writeFile: (_name, data) => {
          binary = data;
        },
        listFiles: () => [],
      },
    );
    if (error) throw new Error(`${error.message}\n${stderr.toString()}`);
    const deflated = deflateRawSync(binary, { level: 9 });
    const module = `// ${hash}\n/** The ${name} kernels, from assembly/ by generate.mjs: deflate-raw, base64. */\nexport const binary =\n  "${deflated.toString("base64")}";\n`;
    const path = join(OUT, `${name}.ts`);
    writeFileSync(`${path}.${process.pid}`, module);
    renameSync(`${path}.${process.pid}`, path); // test runs side by side never see half a file
    process.stderr.write(`simd kernels: ${name} ${binary.length} bytes, ${deflated.length} deflated\n`);
  }
}

function isCurrent(name) {
  const path = join(OUT, `${name}.ts`);
  return existsSync(path) && readFileSync(path, "utf8").startsWith(`// ${hash}\n`);
}

function sourcesHash() {
  const sum = createHash("sha256");
  const assembly = readdirSync(join(HERE, "assembly")).filter((name) => name.endsWith(".ts"));
  for (const name of ["generate.mjs", "layout.ts", ...assembly.sort().map((name) => `assembly/${name}`)]) {
    sum.update(name).update(readFileSync(join(HERE, name)));
  }
  return sum.digest("hex").slice(0, 16);
}

/**
 * assembly/tiles.ts: for each row count up to `most`, one function for float weights and one for int8. AssemblyScript has
 * no arrays of registers, so every accumulator is a variable. All walk the same way: a step takes 32 bytes of the panel
 * and 4 of each row. The loop over steps is not unrolled: measured, that costs 28 %.
 *
 * Where the relaxed dot product is no instruction of the machine (math.ts), int8 goes two steps at a time: their products'
 * sums meet in 16 bits, so that they are widened to 32 once; 1.45 × as fast. Panels say whether 16 bits are enough (pack.ts).
 */
function tiles(most, pairMost) {
  const rows = Array.from({ length: most }, (_, i) => i + 1);
  return `/** Register tiles, written by generate.mjs. */
import { ${pairMost ? "addPairs, " : ""}dot, madd } from "./math";

/** Rows of the largest tile. */
export const MOST_ROWS: i32 = ${most};

${rows.map((r) => tile(r, "float")).join("\n")}
${rows.map((r) => tile(r, "int8", r <= pairMost)).join("\n")}
${rest("float", most, 0)}
${rest("int8", most, pairMost)}
`;
}

function tile(rows, kind, withPairs = false) {
  const each = (line) => Array.from({ length: rows }, (_, r) => line(r)).join("\n");
  const product = kind === "float" ? (w, c) => `madd(a, ${w}, ${c})` : (w, c) => `dot(${w}, a, ${c})`;
  const sums = (half, r) => `c${r}${half} = addPairs(w${half}, a, w${half + 2}, b, ones, c${r}${half});`;
  const pairLoop = !withPairs
    ? ""
    : `
    if (pairs) {
      const ones = i16x8.splat(1);
      for (i >>= 1; i > 0; i--) {
        const w0 = v128.load(p), w1 = v128.load(p, 16), w2 = v128.load(p, 32), w3 = v128.load(p, 48);
        p += 64;
        let a: v128, b: v128;
${each(
  (r) => `        a = v128.load32_splat(x${r});
        b = v128.load32_splat(x${r}, 4);
        x${r} += 8;
        ${sums(0, r)}
        ${sums(1, r)}`,
)}
      }
    }`;
  const start = (half) => (kind === "float" ? `v128.load(bias, ${half * 16})` : "i32x4.splat(0)");
  // Activations are scale × q + min, weights scale × w: the sum is both scales × Σ w q + min × scale × Σ w.
  const epilogue =
    kind === "float"
      ? ""
      : `
    {
      const s0 = v128.load(scale), s1 = v128.load(scale, 16), z0 = v128.load(sum), z1 = v128.load(sum, 16);
      const b0 = v128.load(bias), b1 = v128.load(bias, 16);
${each(
  (r) => `      const m${r} = v128.load32_splat(ranges, ${r * 8 + 4}), k${r} = v128.load32_splat(ranges, ${r * 8});
      c${r}0 = madd(f32x4.convert_i32x4_s(c${r}0), f32x4.mul(k${r}, s0), madd(m${r}, z0, b0));
      c${r}1 = madd(f32x4.convert_i32x4_s(c${r}1), f32x4.mul(k${r}, s1), madd(m${r}, z1, b1));`,
)}
      ranges += ${rows * 8};
    }`;
  return `function ${kind}${rows}(x: usize, xStride: usize, w: usize, steps: i32, bias: usize, dst: usize, dstStride: usize, residual: usize, tiles: i32${kind === "float" ? "" : INT8_PARAMS}): void {
  for (; tiles > 0; tiles--) {
${each((r) => `    let x${r} = ${r ? `x${r - 1} + xStride` : "x"};`)}
    x = x${rows - 1} + xStride;
    let p = w;
${each((r) => `    let c${r}0 = ${start(0)}, c${r}1 = ${start(1)};`)}
    let i = steps;${pairLoop}
    if (i > 0) {
      do {
        const w0 = v128.load(p), w1 = v128.load(p, 16);
        p += 32;
        let a: v128;
${each(
  (r) => `        a = v128.load32_splat(x${r});
        x${r} += 4;
        c${r}0 = ${product("w0", `c${r}0`)};
        c${r}1 = ${product("w1", `c${r}1`)};`,
)}
      } while (--i);
    }${epilogue}
    if (residual) {
${each(
  (r) => `      c${r}0 = f32x4.add(c${r}0, v128.load(residual)); c${r}1 = f32x4.add(c${r}1, v128.load(residual, 16));
      residual += dstStride;`,
)}
    }
${each(
  (r) => `    v128.store(dst, c${r}0); v128.store(dst, c${r}1, 16);
    dst += dstStride;`,
)}
  }
}
`;
}

/** Any number of rows. A last tile of one or two rows would wait for its own sums, so it shares with the one before. */
function rest(kind, most, pairMost) {
  const extra = kind === "float" ? "" : INT8_ARGUMENTS;
  const call = (rows, count) =>
    `${kind}${rows}(x, xStride, w, steps, bias, dst, dstStride, residual, ${count}${extra});`;
  const advance = (rows) =>
    `x += ${rows} * xStride; dst += ${rows} * dstStride; if (residual) residual += ${rows} * dstStride;${kind === "float" ? "" : ` ranges += ${rows} * 8;`}`;
  const half = Math.ceil((most + 1) / 2);
  return `export function ${kind}Rows(x: usize, xStride: usize, w: usize, steps: i32, bias: usize, dst: usize, dstStride: usize, residual: usize, rows: i32${kind === "float" ? "" : INT8_PARAMS}): void {
  ${
    pairMost
      ? `if (pairs) {
    const full = rows / ${pairMost};
    if (full > 0) ${call(pairMost, "full")}
    ${advance(`(full * ${pairMost})`)}
    rows -= full * ${pairMost};
  }`
      : ""
  }
  let full = rows / ${most};
  let left = rows - full * ${most};
  if (full > 0 && left > 0 && left < ${half - 1}) {
    full--;
    left += ${most};
  }
  if (full > 0) {
    ${call(most, "full")}
    ${advance(`(full * ${most})`)}
  }
  if (left > ${most}) {
    ${call(half, 1)}
    ${advance(half)}
    left -= ${half};
  }
  switch (left) {
${Array.from({ length: most }, (_, i) => `    case ${i + 1}: ${call(i + 1, 1)} break;`).join("\n")}
  }
}
`;
}
