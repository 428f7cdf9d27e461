// npm run build:demo [-- DIR]: the demo as a static folder (build/demo) that works wherever it is put, also under a
// sub-path. Run npm run build first. Prints what it holds.
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const require = createRequire(import.meta.url);
const root = (path) => fileURLToPath(new URL(`../${path}`, import.meta.url));

/** Files of the demo that run in Node. All other files in demo/ belong to the page. */
const TOOLING = /(\.mjs|\.d\.mts)$/;
/** Files that onnxruntime-web loads for its WASM and its WebGPU build. */
const ORT = [
  "ort.wasm.bundle.min.mjs",
  "ort.webgpu.bundle.min.mjs",
  ...["", ".asyncify"].flatMap((build) => ["mjs", "wasm"].map((end) => `ort-wasm-simd-threaded${build}.${end}`)),
];

/** Files of examples/search that the page uses. */
const SEARCH = ["files.js", "store.js", "vectors.js"];

/** @param {string} out replaced @returns {number} bytes written */
export function buildDemo(out) {
  if (!existsSync(root("dist/index.js"))) throw new Error('the package is not built; run "npm run build" first.');
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  for (const name of readdirSync(root("demo"))) if (!TOOLING.test(name)) copy(root(`demo/${name}`), join(out, name));
  for (const name of readdirSync(root("dist")).filter((file) => file.endsWith(".js")))
    copy(root(`dist/${name}`), join(out, "lib", name));
  for (const name of SEARCH) copy(root(`examples/search/${name}`), join(out, "search", name));
  const ort = dirname(require.resolve("onnxruntime-web"));
  for (const name of ORT) copy(join(ort, name), join(out, "ort", name));
  const models = JSON.parse(readFileSync(root("models/index.json"), "utf8"));
  for (const { folder } of models) copy(root(`models/${folder}`), join(out, "models", folder));
  for (const name of readdirSync(root("models")).filter((n) => statSync(root(`models/${n}`)).isFile()))
    copy(root(`models/${name}`), join(out, "models", name));
  copy(root("LICENSE"), join(out, "LICENSE"));
  return sizeOf(out);
}

function copy(from, to) {
  cpSync(from, to, { recursive: true });
}

function sizeOf(path) {
  const stat = statSync(path);
  if (!stat.isDirectory()) return stat.size;
  return readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 0);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const out = resolve(process.argv[2] ?? root("build/demo"));
  try {
    const bytes = buildDemo(out);
    console.log(`build:demo: ${out}, ${(bytes / 1e6).toFixed(1)} MB; any static server will do.`);
    console.log(
      "Threads need two headers: Cross-Origin-Opener-Policy: same-origin, Cross-Origin-Embedder-Policy: require-corp.",
    );
  } catch (error) {
    console.error(`build:demo: ${error.message}`);
    process.exit(1);
  }
}
