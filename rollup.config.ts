import resolve from "@rollup/plugin-node-resolve";
import terser from "@rollup/plugin-terser";
import { transform } from "esbuild";
import type { Plugin, RollupOptions } from "rollup";
import dts from "rollup-plugin-dts";
import esbuild from "rollup-plugin-esbuild";

// All into one folder, so that new URL("./worker.js", import.meta.url) holds. The worker is one file without a relative
// import: it must also work from a blob and from a CDN. The optional engines are files of their own: few pages choose them.
export const OPTIONAL = [/^onnxruntime-web/, /^@tensorflow\//];
export const plugins = [
  resolve({ browser: true }),
  esbuild({ target: "es2022", tsconfig: "tsconfig.json" }),
  nodeByName(),
  // importNode stays a function: a name put into its import would be followed by bundlers.
  terser({
    module: true,
    compress: { passes: 3, top_retain: ["importNode"] },
    format: { comments: /@license|@vite-ignore|webpackIgnore/ },
  }),
  unseenByVite(),
];

/**
 * What runs in the worker has to stand alone in whatever an app's bundler makes of it. A bundler that lowers newer syntax
 * puts helpers into a file that the page's own scripts share, which a worker must not load, or outside of the function whose
 * source is copied. So it finds nothing to lower: no syntax newer than 2020, and no async function or object spread, which
 * Angular always lowers.
 */
const workerPlugins = [
  resolve({ browser: true }),
  terseShaders(),
  esbuild({ target: "es2022", tsconfig: "tsconfig.json" }),
  lowered(),
  ...plugins.slice(2),
];

/** Shaders are text, of which no minifier takes comments and spaces. Their files have no other text with these. */
function terseShaders(): Plugin {
  const shaders = /\/engines\/webgpu\/(activation|attention|dots|merge|pool|product|rows|statistics)\.ts$/;
  return {
    name: "terse-shaders",
    transform: (code, id) =>
      shaders.test(id)
        ? {
            code: code
              .replace(/(^|`)[ \t]+/gm, "$1")
              .replace(/ *\/\/ [^`\n]*$/gm, "")
              .replace(/ ([*+/<>=&|?-]+|[{};]) /g, "$1")
              .replace(/([,;:]) (?!")/g, "$1"),
            map: null,
          }
        : null,
  };
}

/** Engines that few pages open, and what several variants need: src/engines/FOLDER/index.ts becomes dist/engine-NAME.js, beside worker.js. */
export const ENGINE_CHUNKS: Record<string, string> = {
  family: "family",
  onnx: "onnx",
  reference: "reference",
  "tfjs-webgpu": "tfjs",
  webnn: "webnn",
  webgpu: "webgpu",
};

/** What the worker loads by its address: the engines' files, and what teaches a model. */
export const WORKER_CHUNKS: Record<string, string> = {
  ...Object.fromEntries(
    Object.entries(ENGINE_CHUNKS).map(([folder, name]) => [`src/engines/${folder}/index.ts`, `engine-${name}`]),
  ),
  "src/teach/index.ts": "teach",
};

/** What index.ts imports dynamically are files of their own, beside index.js: few pages need them. */
const BESIDE: Record<string, string> = {
  "../worker/worker.ts": "./worker.js",
  "./drawSvg.ts": "./draw-svg.js",
  "./videoFrames.ts": "./video-frames.js",
  "./batchOf.ts": "./batch-of.js",
  "./teaching.ts": "./teaching.js",
  "./beside.ts": "./beside.js",
  "./advice.ts": "./advice.js",
  "./engine-family.js": "./engine-family.js",
  "./engine-onnx.js": "./engine-onnx.js",
  "./engine-reference.js": "./engine-reference.js",
  "./engine-tfjs.js": "./engine-tfjs.js",
  "./engine-webgpu.js": "./engine-webgpu.js",
  "./engine-webnn.js": "./engine-webnn.js",
  "./teach.js": "./teach.js",
  "./onnx-package.ts": "./onnx-package.js",
  "./onnx-webgpu-package.ts": "./onnx-webgpu-package.js",
  "./tfjs-package.ts": "./tfjs-package.js",
};

const configs: RollupOptions[] = [
  {
    input: "src/worker/worker.ts",
    output: { file: "dist/worker.js", format: "es", inlineDynamicImports: true, freeze: false, sourcemap: true },
    external: OPTIONAL,
    plugins: [withoutChunks(), ...workerPlugins, oneFunction()],
  },
  ...Object.entries(WORKER_CHUNKS).map(
    ([input, name]): RollupOptions => ({
      input,
      output: { file: `dist/${name}.js`, format: "es", inlineDynamicImports: true, sourcemap: true },
      external: OPTIONAL,
      plugins: [...workerPlugins, ownAddress(name)],
    }),
  ),
  ...["onnx", "onnx-webgpu", "tfjs"].flatMap((name): RollupOptions[] => [
    {
      input: `src/page/packages/${name}.ts`,
      output: { file: `dist/engines/${name}.js`, format: "es", sourcemap: true },
      plugins: [besideIndex(), ...plugins],
    },
    {
      input: `src/page/packages/${name}-package.ts`,
      output: { file: `dist/engines/${name}-package.js`, format: "es", sourcemap: true },
      external: OPTIONAL,
      plugins,
    },
    {
      input: `src/page/packages/${name}.ts`,
      output: { file: `dist/engines/${name}.d.ts`, format: "es" },
      plugins: [dts()],
    },
  ]),
  ...["drawSvg", "videoFrames", "batchOf", "advice", "teaching", "beside"].map(
    (name): RollupOptions => ({
      input: `src/page/${name}.ts`,
      output: { file: `dist/${BESIDE[`./${name}.ts`].slice(2)}`, format: "es", sourcemap: true },
      plugins: [besideIndex(), ...plugins],
    }),
  ),
  {
    input: "src/index.ts",
    output: { file: "dist/index.js", format: "es", sourcemap: true },
    external: OPTIONAL,
    plugins: [besideIndex(), ...plugins],
  },
  {
    input: "src/page/workerTypes.ts",
    output: { file: "dist/worker.d.ts", format: "es" },
    plugins: [dts()],
  },
  {
    input: "src/index.ts",
    output: { file: "dist/index.d.ts", format: "es", banner: '/// <reference lib="esnext.disposable" />' }, // Symbol.dispose
    external: [/^node:/],
    plugins: [dts()],
  },
];

/** The minifier must not put the name of a module of Node's into the import itself, where every bundler would look for it. */
function nodeByName(): Plugin {
  return {
    name: "node-by-name",
    renderChunk: (code) => ({ code: code.replace(/(?<!function )\bimportNode\(/g, "/*@__NOINLINE__*/ $&"), map: null }),
  };
}

/** The worker asks the page where an engine's chunk is; what the registry would import elsewhere is not in worker.js. */
export function withoutChunks(): Plugin {
  return {
    name: "without-chunks",
    resolveDynamicImport(specifier) {
      const [, folder] = (typeof specifier === "string" && specifier.match(/^\.\.?\/([\w-]+)\/index\.ts$/)) || [];
      return folder && (folder in ENGINE_CHUNKS || folder === "teach") ? "\0not-here" : null;
    },
    load: (id) => (id === "\0not-here" ? "export const engines = {}, answer = undefined;" : null),
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

function lowered(): Plugin {
  const supported = { "async-await": false, "async-generator": false, "for-await": false, "object-rest-spread": false };
  return {
    name: "lowered",
    renderChunk: (code) => transform(code, { target: "es2020", supported, sourcemap: true, legalComments: "inline" }),
  };
}

/**
 * webpack and its kind read `new URL("./file.js", import.meta.url)` as a program, vite by its letters. In vite every file is
 * a chunk already, and a second copy as a worker's or an asset would be for nothing.
 */
function unseenByVite(): Plugin {
  return {
    name: "unseen-by-vite",
    renderChunk: (code) => ({
      code: code
        // The minifier drops the comments of imports that it rewrites.
        .replace(/\bimport\((?=[^"'`/\s])/g, "import(/* @vite-ignore */ /* webpackIgnore: true */ ")
        .replace(/(new URL\("\.\/[\w-]+\.js",\s*import\.meta)\.url/g, "$1 .url"),
      map: null,
    }),
  };
}

/**
 * An engine's file tells the page its address, which the page tells the worker. It also leaves its exports in a global of its
 * name, since Parcel makes a script without exports of it.
 */
function ownAddress(name: string): Plugin {
  return {
    name: "own-address",
    renderChunk(code) {
      const [exported, list] = code.match(/\bexport\s*\{([^}]*)\};?\s*$/) ?? [];
      if (!exported) throw new Error(`dist/${name}.js: expected one list of exports at its end.`);
      const pairs = list.split(",").map((one) => one.trim().split(/\s+as\s+/));
      const values = pairs.map(([own, known]) => `${known}=${own}`).join();
      const names = pairs.map(([, known]) => known).join();
      const ending = `export const ${values},url=import.meta.url;globalThis["slimvit/${name}.js"]={${names}};`;
      return { code: `${code.slice(0, code.lastIndexOf(exported))}${ending}\n`, map: null };
    },
  };
}

/**
 * dist/worker.js: all of the worker's code in one function that refers to nothing outside it. Imported by a page it only
 * tells its address, or its source where it has none of its own; in a worker of ours it runs.
 */
function oneFunction(): Plugin {
  const before = "function slimvitWorker() {";
  // The condition is spelled as the minifier spells it inside, so that gzip stores it once.
  const after = `}
let host;
export const createHost = () => (host ??= slimvitWorker()).createHost();
export const url = import.meta.url;
export const source = () => \`(\${slimvitWorker})();\`;
"undefined"!=typeof WorkerGlobalScope&&globalThis instanceof WorkerGlobalScope&&"slimvit"===self.name&&slimvitWorker();
`;
  return {
    name: "one-function",
    generateBundle(_, bundle) {
      const worker = bundle["worker.js"];
      if (worker.type !== "chunk" || !worker.map)
        throw new Error("dist/worker.js: expected a chunk with a source map.");
      const [text, comment = ""] = worker.code.split(/(?=\/\/# sourceMappingURL=)/);
      // rollup's form of an import of what is in the same file; Parcel takes it for a require of its own.
      const code = text.replace(/Promise\.resolve\(\)\.then\(function\(\)\{return ([\w$]+)\}\)/g, "(async()=>$1)()");
      const [exported, name] = code.match(/export\s*\{\s*([\w$]+) as createHost\s*\};?\s*$/) ?? [];
      if (!exported || /\bimport\.meta\b|\bimport\s*\(?\s*["'`{*]/.test(code))
        throw new Error("dist/worker.js: expected createHost as the only export, no import and no import.meta.");
      worker.code = `${before}\n${code.slice(0, -exported.length)}return { createHost: ${name} };\n${after}${comment}`;
      worker.map.mappings = `;${worker.map.mappings}`;
    },
  };
}

export default configs;
