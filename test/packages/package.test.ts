/** The package as npm would publish it, in Node: what is in it, and that importing and running it does what it says. */
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { preprocess } from "../../src/image/resample.ts";
import { forward } from "../../src/reference/forward.ts";
import { readModelFolder, writeModelFolder } from "../../tools/models/folders.ts";
import { randomModel } from "../helpers.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const INDEX = pathToFileURL(join(ROOT, "dist/index.js")).href;

let folder: string;
let model: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-package-"));
  model = join(folder, "tiny");
  const keepIdx = [0, 1, 2, 5, 7];
  const { manifest, tensors } = randomModel(
    {
      imageSize: [32, 32],
      patchSize: 8,
      embedDim: 12,
      headDim: 4,
      layerNormEps: 1e-6,
      prefixTokens: 1,
      blocks: [
        { headDims: [4, 3], mlpHidden: 9, keepIdx: [...Array(17).keys()] },
        { headDims: [2], mlpHidden: 5, keepIdx },
      ],
    },
    3,
  );
  writeModelFolder(model, manifest, tensors, ["f32", "f16"]);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("package.json lets bundlers find the types first and drop what is not used", () => {
  const { type, sideEffects, exports, dependencies, peerDependenciesMeta } = JSON.parse(
    readFileSync(join(ROOT, "package.json"), "utf8"),
  );
  expect(type).toBe("module");
  expect(sideEffects).toBe(false);
  expect(Object.keys(exports["."])[0]).toBe("types");
  expect(Object.keys(dependencies)).toEqual(["comlink"]);
  for (const peer of Object.values(peerDependenciesMeta)) expect(peer).toEqual({ optional: true });
});

test("npm pack ships the built entries and papers, and nothing else", () => {
  const [{ files }] = JSON.parse(
    execFileSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], { cwd: ROOT, encoding: "utf8" }),
  ) as { files: { path: string }[] }[];
  const paths = files.map((file) => file.path);
  for (const path of [
    "dist/index.js",
    "dist/index.d.ts",
    "dist/worker.js",
    "dist/worker.d.ts",
    "dist/engine-onnx.js",
    "dist/engines/onnx.js",
    "dist/engines/onnx-package.js",
    "LICENSE",
  ]) {
    expect(paths).toContain(path);
  }
  const strays = paths.filter(
    (path) =>
      !/^(dist\/(engines\/)?[\w.-]+\.(js|js\.map|d\.ts)|LICENSE|README\.md|CHANGELOG\.md|package\.json)$/.test(path),
  );
  expect(strays).toEqual([]);

  // Whatever an app or our own scripts can ask for is there.
  const { exports } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
  const targets = Object.values<string | object>(exports).flatMap((target) =>
    typeof target === "string" ? [target] : Object.values<string>(target as Record<string, string>),
  );
  for (const target of targets) expect(paths).toContain(target.replace("./", ""));
  const named = new Set<string>();
  for (const path of paths.filter((path) => path.endsWith(".js"))) {
    const code = readFileSync(join(ROOT, path), "utf8");
    for (const [, name] of code.matchAll(/(?:import\((?:\/\*.*?\*\/\s*)*|new URL\()["'`](\.\/[\w-]+\.js)["'`]/g)) {
      expect(paths, `${path} asks for it`).toContain(join(path, "..", name));
      named.add(name);
    }
    for (const [, name] of code.matchAll(/["'`]slimvit\/((?:engine-)?[\w-]+\.js)["'`]/g)) {
      expect(exports, `${path} names it`).toHaveProperty([`./${name}`]);
    }
  }
  for (const name of ["worker", "teach", "engine-family", "engine-webgpu", "batch-of", "teaching", "video-frames"])
    expect([...named]).toContain(`./${name}.js`);
});

test("what a page loads names no package and nothing that a bundler would follow out of the worker", () => {
  const importsOf = (file: string) => {
    const code = readFileSync(join(ROOT, "dist", file), "utf8");
    const named = code.matchAll(/\b(?:import|from)\s*\(?\s*(?:\/\*.*?\*\/\s*)*["'`]([^"'`]+)["'`]/g);
    return [...named].map((match) => match[1]).filter((name) => !name.startsWith("slimvit/")); // in the advice of errors
  };
  for (const file of ["worker.js", "engine-onnx.js", "engine-tfjs.js"]) expect(importsOf(file)).toEqual([]);
  for (const name of ["index.js", "video-frames.js"].flatMap(importsOf)) expect(name).toMatch(/^\.\/[\w-]+\.js$/);
});

test("the types name nothing that a page has to install", () => {
  const types = readFileSync(join(ROOT, "dist/index.d.ts"), "utf8");
  expect([...types.matchAll(/from ['"]([^'"]+)['"]/g)].map((match) => match[1])).toEqual([]);
});

describe("in Node", () => {
  const node = (script: string) => {
    const path = join(folder, "script.mjs"); // a file, as onnxruntime-web's threads inherit node's flags
    writeFileSync(path, script);
    return spawnSync(process.execPath, [path], { encoding: "utf8", cwd: folder, timeout: 60_000 });
  };

  test("importing it adds no global, prints nothing and lets the process end", () => {
    const { status, stdout, stderr } = node(`
      const before = Object.getOwnPropertyNames(globalThis).join();
      const { SlimViT, SlimViTError } = await import(${JSON.stringify(INDEX)});
      if (typeof SlimViT.load !== "function" || typeof SlimViTError !== "function") throw new Error("names");
      if (Object.getOwnPropertyNames(globalThis).join() !== before) throw new Error("a global was added");`);
    expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: "", stderr: "" });
  });

  test.each([
    ["a path", () => model],
    ["a relative path", () => relative(folder, model)],
    ["a file: URL", () => pathToFileURL(model).href],
  ])("loads a model from %s and gives the reference's logits", (_, source) => {
    const width = 40;
    const height = 33;
    const data = Uint8ClampedArray.from({ length: width * height * 4 }, (_, i) => (i * 37 + ((i * i) >> 5)) % 256);
    const { status, stdout, stderr } = node(`
      import { SlimViT } from ${JSON.stringify(INDEX)};
      const vit = await SlimViT.load(${JSON.stringify(source())}, { engine: "reference", dtype: "f32" });
      const image = { data: new Uint8ClampedArray(${JSON.stringify([...data])}), width: ${width}, height: ${height} };
      const { classes, latencyMs, engine } = await vit.classify(image, { topK: 9 });
      const features = [...await vit.embed(image)];
      vit.dispose();
      const late = await vit.classify(image).catch((error) => error.code);
      console.log(JSON.stringify({ classes, latencyMs, engine, features, late, intact: image.data.length }));`);
    expect([status, stderr]).toEqual([0, ""]);
    const out = JSON.parse(stdout);
    const expected = forward(
      readModelFolder(model, "f32"),
      preprocess({ data, width, height }, readModelFolder(model, "f32").manifest.preprocess),
    );
    const exps = expected.logits.map(Math.exp);
    const total = exps.reduce((a, b) => a + b, 0);
    expect(out.classes).toHaveLength(5);
    for (const { index, score } of out.classes) expect(score).toBeCloseTo(exps[index] / total, 6);
    out.features.forEach((v: number, i: number) => void expect(v).toBeCloseTo(expected.features[i], 5));
    expect(out).toMatchObject({ engine: "reference", late: "disposed", intact: data.length });
    expect(out.latencyMs.total).toBeGreaterThan(0);
  });

  test.each([
    ["auto", "simd"],
    ["onnx-wasm", "onnx-wasm"],
  ])("engine %s runs %s without a word of configuration, and the process ends after dispose()", (asked, expected) => {
    const { status, stdout, stderr } = node(`
      import { SlimViT } from ${JSON.stringify(INDEX)};
      const vit = await SlimViT.load(${JSON.stringify(model)}, { threads: 2, engine: ${JSON.stringify(asked)} });
      const image = { data: new Uint8ClampedArray(64 * 64 * 4).fill(90), width: 64, height: 64 };
      const runs = await Promise.all([vit.classify(image), vit.classify(image)]);
      vit.dispose();
      console.log(JSON.stringify([vit.info.engine, vit.info.dtype, runs[0].classes[0].score === runs[1].classes[0].score]));`);
    expect([status, stderr]).toEqual([0, ""]);
    expect(JSON.parse(stdout)).toEqual([expected, "f16", true]);
  });

  test.each(["reference", "simd"])("%s answers a batch, a region, labels, profile, explain and a stream", (engine) => {
    const { status, stdout, stderr } = node(`
      import { SlimViT } from ${JSON.stringify(INDEX)};
      const vit = await SlimViT.load(${JSON.stringify(model)}, { engine: ${JSON.stringify(engine)}, dtype: "f32" });
      const picture = (seed, width = 40, height = 40) => {
        const data = Uint8ClampedArray.from({ length: width * height * 4 }, (_, i) => (i * seed + ((i * i) >> 5)) % 256);
        return { data, width, height };
      };
      const whole = picture(37);
      const region = { x: 4, y: 6, width: 20, height: 12 };
      const cut = { data: new Uint8ClampedArray(20 * 12 * 4), width: 20, height: 12 };
      for (let y = 0; y < 12; y++) cut.data.set(whole.data.subarray(((y + 6) * 40 + 4) * 4, ((y + 6) * 40 + 24) * 4), y * 80);
      const pictures = [whole, picture(11), cut];
      const tops = (results) => results.map(({ classes }) => classes[0].score);
      const alone = [];
      for (const one of pictures) alone.push(await vit.classify(one));
      const { classes, blockMs, attention } = await vit.classify(whole, { topK: 9, profile: true, explain: true });
      const [first, ...others] = classes.map(({ label }) => label);
      async function* frames() { for (let k = 0; k < 40; k++) yield picture(k + 1); }
      let answers = 0;
      for await (const answer of vit.stream(frames(), { topK: 1 })) answers += answer.classes.length;
      console.log(JSON.stringify({
        alone: tops(alone), together: tops(await vit.classify(pictures)), region: tops([await vit.classify(whole, { region })]),
        blocks: blockMs.length, maps: attention.map((map) => map.length), sum: attention[0].reduce((a, b) => a + b, 0),
        allow: (await vit.classify(whole, { allow: [first] })).classes.length,
        deny: (await vit.classify(whole, { topK: 9, deny: [first] })).classes.map(({ label }) => label), others,
        threshold: (await vit.classify(whole, { scoreThreshold: 1 })).classes.length, answers,
        named: await vit.classify([whole, { width: 1 }]).catch(({ code, message }) => code + " " + message),
      }));
      vit.dispose();`);
    expect([status, stderr]).toEqual([0, ""]);
    const out = JSON.parse(stdout);
    expect(out.together).toEqual(out.alone);
    expect(out.region[0]).toBe(out.alone[2]);
    expect(out).toMatchObject({ blocks: 2, maps: [17, 5], allow: 1, threshold: 0, deny: out.others });
    expect(out.sum).toBeCloseTo(1, 5);
    expect(out.answers).toBe(40); // only frames of video are left out
    expect(out.named).toMatch(/^bad-input Picture 2 of 2: /);
  });

  test("says what is wrong with a folder, a damaged file and a picture it cannot decode", () => {
    const damaged = join(folder, "damaged");
    const { manifest, tensors } = readModelFolder(model, "f32");
    writeModelFolder(damaged, manifest, tensors, ["f32"]);
    const path = join(damaged, "model.f32.safetensors");
    const bytes = readFileSync(path);
    bytes[bytes.length - 5] ^= 16;
    writeFileSync(path, bytes);
    const { stdout, stderr } = node(`
      import { SlimViT } from ${JSON.stringify(INDEX)};
      const told = async (work) => work().then(() => "none", (error) => error.code + " " + error.message);
      const engine = "reference";
      const vit = await SlimViT.load(${JSON.stringify(model)}, { engine });
      console.log(JSON.stringify([
        await told(() => SlimViT.load(${JSON.stringify(join(folder, "nothing"))}, { engine })),
        await told(() => SlimViT.load(${JSON.stringify(damaged)}, { engine })),
        await told(() => SlimViT.load(${JSON.stringify(model)}, { engine, signal: AbortSignal.abort() })),
        await told(() => SlimViT.load(${JSON.stringify(model)}, { engine, threads: 0 })),
        await told(() => vit.classify("picture.jpg")),
        await told(() => vit.classify({ width: 3, height: 3 })),
        await told(() => vit.classify({ data: new Uint8Array(36), width: 3, height: 3 }, { topK: 0 })),
      ]));`);
    expect(stderr).toBe("");
    const [missing, flipped, aborted, threads, undecodable, noPixels, topK] = JSON.parse(stdout);
    expect(missing).toMatch(/^bad-model .*nothing.slimvit\.json: cannot be read/);
    expect(flipped).toMatch(/^integrity .*damaged.model\.f32\.safetensors: its sha256/);
    expect(aborted).toMatch(/^aborted /);
    expect(threads).toMatch(/^bad-option threads is 0/);
    expect(undecodable).toMatch(/^bad-input picture\.jpg: .*data, width, height/);
    expect(noPixels).toMatch(/^bad-input /);
    expect(topK).toMatch(/^bad-option topK is 0/);
  });
});
