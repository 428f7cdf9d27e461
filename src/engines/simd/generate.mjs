/**
 * Builds the WASM binaries (the engine's two, and the resampler) and writes them into TypeScript modules, deflated and in
 * base64 (which gzip could not squeeze any more), so that no bundler needs to know about .wasm files:
 *   node src/engines/simd/generate.mjs  →  generated/kernels.ts, generated/resample.ts
 * The engine's two are deflated as one, because most of the second is in the first: together they take 30 % less.
 * The register tiles that they are built from are written beside them, as generated/tiles.ts.
 *
 * Does nothing when they were made from these sources. Prints the size of what it builds.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { deflateRawSync } from "node:zlib";
import { writeTiles } from "./tiles.mjs";

/** Deflates to 4 % less than zlib, in two seconds. Before `npm ci` has brought it, zlib serves. */
const zopfli = await import("@gfx/zopfli").catch(() => undefined);

const HERE = dirname(fileURLToPath(import.meta.url));
const OUT = join(HERE, "generated");

const SHARED = ["--importMemory", "--sharedMemory", "--maximumMemory", "65536"];
const KERNELS = { entry: "index", memory: SHARED };
const MODULES = {
  kernels: {
    relaxed: { ...KERNELS, features: ["threads", "simd", "relaxed-simd"] },
    plain: { ...KERNELS, features: ["threads", "simd"] },
  },
  resample: { resample: { entry: "resample", features: ["simd"], memory: [] } },
};

const hash = sourcesHash();
const stale = Object.keys(MODULES).filter((name) => !isCurrent(name));
if (stale.length) await build(stale);

async function build(modules) {
  mkdirSync(OUT, { recursive: true });
  write("tiles.ts", writeTiles());
  for (const module of modules) {
    const binaries = [];
    for (const [name, options] of Object.entries(MODULES[module])) binaries.push([name, await compile(options)]);
    const deflated = await deflate(Buffer.concat(binaries.map(([, bytes]) => bytes)));
    const sizes = binaries.map(([name, { length }]) => `${name}: ${length}`).join(", ");
    write(
      `${module}.ts`,
      `// ${hash}\n/** From assembly/ by generate.mjs: one after another, deflate-raw, base64. */\nexport const binary =\n  "${deflated.toString("base64")}";\n/** Bytes of each. */\nexport const sizes = { ${sizes} };\n`,
    );
    process.stderr.write(`simd kernels: ${sizes} bytes, ${deflated.length} deflated\n`);
  }
}

async function deflate(bytes) {
  if (zopfli) return Buffer.from(await zopfli.deflateAsync(bytes, {}));
  process.stderr.write("simd kernels: deflated by zlib, as @gfx/zopfli is not installed; run npm ci\n");
  return deflateRawSync(bytes, { level: 9, memLevel: 9 });
}

async function compile({ entry, features, memory }) {
  const { default: asc } = await import("assemblyscript/asc");
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
        const file = join(HERE, base ?? "", source);
        return existsSync(file) ? readFileSync(file, "utf8") : null;
      },
      writeFile: (_name, data) => {
        binary = data;
      },
      listFiles: () => [],
    },
  );
  if (error) throw new Error(`${error.message}\n${stderr.toString()}`);
  return binary;
}

/** Written beside and renamed, so that test runs side by side never see half a file. */
function write(name, text) {
  const path = join(OUT, name);
  writeFileSync(`${path}.${process.pid}`, text);
  renameSync(`${path}.${process.pid}`, path);
}

function isCurrent(name) {
  const path = join(OUT, `${name}.ts`);
  return existsSync(path) && readFileSync(path, "utf8").startsWith(`// ${hash}\n`);
}

function sourcesHash() {
  const sum = createHash("sha256").update(zopfli ? "zopfli" : "zlib");
  const assembly = readdirSync(join(HERE, "assembly")).filter((name) => name.endsWith(".ts"));
  const shared = ["generate.mjs", "tiles.mjs", "layout.ts", "../../format/pairSums.ts"];
  for (const name of [...shared, ...assembly.sort().map((name) => `assembly/${name}`)]) {
    sum.update(name).update(readFileSync(join(HERE, name)));
  }
  return sum.digest("hex").slice(0, 16);
}
