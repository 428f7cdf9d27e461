/**
 * Builds the WASM binaries (the engine's two, and the resampler) and writes each as a TypeScript module that holds it
 * deflated and in base64 (which gzip could not squeeze any more), so that no bundler needs to know about .wasm files:
 *   node src/engines/simd/generate.mjs  →  generated/relaxed.ts, generated/plain.ts, generated/resample.ts
 * The register tiles that the engine's binaries are built from are written beside them, as generated/tiles.ts.
 *
 * Does nothing when they were made from these sources. Prints the size of what it builds.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { deflateRawSync } from "node:zlib";
import { writeTiles } from "./tiles.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
const OUT = join(HERE, "generated");

const SHARED = ["--importMemory", "--sharedMemory", "--maximumMemory", "65536"];
const BINARIES = {
  relaxed: { entry: "index", features: ["threads", "simd", "relaxed-simd"], memory: SHARED },
  plain: { entry: "index", features: ["threads", "simd"], memory: SHARED },
  resample: { entry: "resample", features: ["simd"], memory: [] },
};

const hash = sourcesHash();
const stale = Object.keys(BINARIES).filter((name) => !isCurrent(name));
if (stale.length) await build(stale);

async function build(names) {
  const { default: asc } = await import("assemblyscript/asc");
  mkdirSync(OUT, { recursive: true });
  write("tiles.ts", writeTiles());
  for (const name of names) {
    const { entry, features, memory } = BINARIES[name];
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
    const deflated = deflateRawSync(binary, { level: 9 });
    write(
      `${name}.ts`,
      `// ${hash}\n/** The ${name} kernels, from assembly/ by generate.mjs: deflate-raw, base64. */\nexport const binary =\n  "${deflated.toString("base64")}";\n`,
    );
    process.stderr.write(`simd kernels: ${name} ${binary.length} bytes, ${deflated.length} deflated\n`);
  }
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
  const sum = createHash("sha256");
  const assembly = readdirSync(join(HERE, "assembly")).filter((name) => name.endsWith(".ts"));
  const shared = ["generate.mjs", "tiles.mjs", "layout.ts", "../../format/pairSums.ts"];
  for (const name of [...shared, ...assembly.sort().map((name) => `assembly/${name}`)]) {
    sum.update(name).update(readFileSync(join(HERE, name)));
  }
  return sum.digest("hex").slice(0, 16);
}
