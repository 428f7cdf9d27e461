import resolve from "@rollup/plugin-node-resolve";
import terser from "@rollup/plugin-terser";
import type { Plugin, RollupOptions } from "rollup";
import dts from "rollup-plugin-dts";
import esbuild from "rollup-plugin-esbuild";

// All into one folder, so that new URL("./worker.js", import.meta.url) holds. The worker is one file without a relative
// import: it must also work from a blob and from a CDN. The optional engines are files of their own, and so is
// what a set of models needs: few pages choose them.
export const OPTIONAL = [/^onnxruntime-web/, /^@tensorflow\//];
export const plugins = [
  resolve({ browser: true }),
  esbuild({ target: "es2022", tsconfig: "tsconfig.json" }),
  terser({ module: true, compress: { passes: 3 }, format: { comments: /@license|@vite-ignore|webpackIgnore/ } }),
];

/** The optional engines: src/engines/FOLDER/index.ts becomes dist/engine-NAME.js, beside worker.js. */
export const ENGINE_CHUNKS: Record<string, string> = { onnx: "onnx", "tfjs-webgpu": "tfjs", webgpu: "webgpu" };

const configs: RollupOptions[] = [
  {
    input: "src/worker/worker.ts",
    output: { file: "dist/worker.js", format: "es", inlineDynamicImports: true, sourcemap: true },
    external: OPTIONAL,
    plugins: [besideWorker(), ...plugins, inlineCopy()],
  },
  ...Object.entries(ENGINE_CHUNKS).map(
    ([folder, name]): RollupOptions => ({
      input: `src/engines/${folder}/index.ts`,
      output: { file: `dist/engine-${name}.js`, format: "es", inlineDynamicImports: true, sourcemap: true },
      external: OPTIONAL,
      plugins,
    }),
  ),
  {
    input: "src/page/set.ts",
    output: { file: "dist/set.js", format: "es", sourcemap: true },
    plugins,
  },
  {
    input: "src/page/drawSvg.ts",
    output: { file: "dist/draw-svg.js", format: "es", sourcemap: true },
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
  "./drawSvg.ts": "./draw-svg.js",
};

/**
 * The worker's `import("./onnx/index.ts")` of an optional engine becomes an import of dist/engine-onnx.js by its address,
 * new URL("./engine-onnx.js", import.meta.url): bundlers copy that file, and do not look into it.
 */
export function besideWorker(): Plugin {
  return {
    name: "beside-worker",
    resolveDynamicImport(specifier) {
      const [, folder] = (typeof specifier === "string" && specifier.match(/^\.\/([\w-]+)\/index\.ts$/)) || [];
      const name = folder && ENGINE_CHUNKS[folder];
      return name ? { id: `./engine-${name}.js`, external: true } : null;
    },
    renderDynamicImport({ customResolution, targetModuleId }) {
      if (customResolution || !targetModuleId?.includes("engine-")) return null;
      const importing = "(url) => import(/* @vite-ignore */ /* webpackIgnore: true */ url)";
      return { left: "Promise.resolve(new URL(", right: `, import.meta.url).href).then(${importing})` };
    },
  };
}

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
