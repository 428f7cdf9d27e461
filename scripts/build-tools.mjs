// tools/dist: the command line as the `slimvit-tools` package ships it, from tools/.
//   npm run build            (after the runtime)
import { copyFileSync, rmSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = (path) => fileURLToPath(new URL(`../${path}`, import.meta.url));
const outdir = root("tools/dist");
const common = { bundle: true, target: "es2022", legalComments: "none", logLevel: "warning" };

rmSync(outdir, { recursive: true, force: true });
await build({
  ...common,
  entryPoints: { cli: root("tools/cli.ts") },
  outdir,
  platform: "node",
  format: "esm",
  splitting: true, // a command loads what it needs
  packages: "external",
  chunkNames: "[name]-[hash]",
});
// Run by name, not imported: a page's script, and a process of its own.
await build({ ...common, entryPoints: { "kernels-page": root("tools/bench/kernelsPage.ts") }, outdir, format: "iife" });
copyFileSync(root("scripts/setup-tfjs-node.mjs"), root("tools/dist/setup-tfjs-node.mjs"));
