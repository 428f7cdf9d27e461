// gzip size of every entry and engine against the budgets in package.json.
//   npm run build && npm run size
// Prints a line each; exits 1 past a budget. The worker's core is what is left when the engines are chunks of their own.
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { type OutputChunk, rollup } from "rollup";
import pkg from "../package.json" with { type: "json" };
import { OPTIONAL, plugins, WORKER_CHUNKS, withoutChunks } from "../rollup.config.ts";

const root = (path: string) => fileURLToPath(new URL(`../${path}`, import.meta.url));
const gzipBytes = (code: string) => gzipSync(code, { level: 9 }).length;

/** Each chunk is measured alone, which gives a little more than it adds to worker.js. */
async function workerParts(): Promise<Record<string, number>> {
  const bundle = await rollup({
    input: root("src/worker/worker.ts"),
    external: OPTIONAL,
    plugins: [withoutChunks(), ...plugins],
  });
  const { output } = await bundle.generate({ format: "es" });
  const chunks = output.filter((file): file is OutputChunk => file.type === "chunk");
  const parts: Record<string, number> = { "worker core": 0 };
  for (const { code, isDynamicEntry, facadeModuleId } of chunks) {
    const part = facadeModuleId?.match(/src\/(.+?)(\/engine)?\.ts$/)?.[1].replace("engines/", "engine ");
    if (isDynamicEntry && part) parts[part] = gzipBytes(code);
    else parts["worker core"] += gzipBytes(code); // the entry, and what it shares with engines
  }
  return parts;
}

async function main(): Promise<void> {
  if (!existsSync(root("dist/worker.js"))) {
    console.error('size: the package is not built; run "npm run build" first.');
    process.exit(1);
  }
  const index = gzipBytes(readFileSync(root("dist/index.js"), "utf8"));
  const worker = gzipBytes(readFileSync(root("dist/worker.js"), "utf8"));
  const chunks = Object.values(WORKER_CHUNKS).map((name): [string, number] => {
    const file = `${name}.js`;
    return [file, gzipBytes(readFileSync(root(`dist/${file}`), "utf8"))];
  });
  const sizes: Record<string, number> = {
    index,
    ...(await workerParts()),
    worker,
    "index + worker": index + worker,
    ...Object.fromEntries(chunks), // loaded when they are needed
  };
  let isOver = false;
  for (const [name, bytes] of Object.entries(sizes)) {
    const budget: number | undefined = pkg.sizeBudgets[name as keyof typeof pkg.sizeBudgets];
    const over = budget !== undefined && bytes > budget;
    isOver ||= over;
    const limit = budget === undefined ? "" : `  of ${budget}${over ? "  OVER" : ""}`;
    console.log(`${name.padEnd(20)}${String(bytes).padStart(8)} bytes gzip${limit}`);
  }
  if (isOver) process.exit(1);
}

main();
