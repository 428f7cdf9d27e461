import resolve from "@rollup/plugin-node-resolve";
import terser from "@rollup/plugin-terser";
import type { Plugin, RollupOptions } from "rollup";
import dts from "rollup-plugin-dts";
import esbuild from "rollup-plugin-esbuild";

// All into one folder, so that new URL("./worker.js", import.meta.url) holds. The worker is one file without a relative
// import: it must also work from a blob and from a CDN. The GPU engines are a file of their own, and so is
// what a set of models needs: few pages choose them.
export const OPTIONAL = [/^onnxruntime-web/, /^@tensorflow\//];
export const plugins = [
  resolve({ browser: true }),
  esbuild({ target: "es2022", tsconfig: "tsconfig.json" }),
  terser({ module: true, compress: { passes: 3 }, format: { comments: /@license|@vite-ignore|webpackIgnore/ } }),
];

const configs: RollupOptions[] = [
  {
    input: "src/worker/worker.ts",
    output: { file: "dist/worker.js", format: "es", inlineDynamicImports: true, sourcemap: true },
    external: OPTIONAL,
    plugins: [...plugins, inlineCopy()],
  },
  {
    input: "src/engines/gpuEngines.ts",
    output: { file: "dist/webgpu.js", format: "es", sourcemap: true },
    external: OPTIONAL,
    plugins,
  },
  {
    input: "src/engines/webgpu/entry.ts",
    output: { file: "dist/engine-webgpu.js", format: "es", sourcemap: true },
    plugins,
  },
  {
    input: "src/page/set.ts",
    output: { file: "dist/set.js", format: "es", sourcemap: true },
    plugins,
  },
  {
    input: "src/index.ts",
    output: { file: "dist/index.js", format: "es", sourcemap: true },
    external: OPTIONAL,
    plugins: [besideIndex(), ...plugins],
  },
  {
    input: "src/index.ts",
    output: { file: "dist/index.d.ts", format: "es", banner: '/// <reference lib="esnext.disposable" />' }, // Symbol.dispose
    external: [/^node:/],
    plugins: [dts()],
  },
];

/** What index.ts imports dynamically are files of their own, beside index.js. */
const BESIDE: Record<string, string> = {
  "../worker/worker.ts": "./worker.js",
  "./worker-inline.js": "./worker-inline.js",
  "./set.ts": "./set.js",
};

function besideIndex(): Plugin {
  return {
    name: "beside-index",
    resolveDynamicImport(specifier) {
      const file = typeof specifier === "string" ? BESIDE[specifier] : undefined;
      return file ? { id: file, external: true } : null;
    },
  };
}

/** worker-inline.js: the worker's source as a string, for pages whose bundler does not ship worker.js. */
function inlineCopy(): Plugin {
  return {
    name: "inline-copy",
    generateBundle(_, bundle) {
      const worker = bundle["worker.js"];
      if (worker.type !== "chunk") return;
      const code = worker.code.replace(/\n?\/\/# sourceMappingURL=.*\s*$/, "");
      this.emitFile({
        type: "asset",
        fileName: "worker-inline.js",
        source: `export default ${JSON.stringify(code)};\n`,
      });
    },
  };
}

export default configs;
