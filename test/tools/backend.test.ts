import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import { BIN, makeDense, workplace } from "./fixtures.ts";

const SCRIPT = fileURLToPath(new URL("../../scripts/setup-tfjs-node.mjs", import.meta.url));
const at = workplace("backend");

/** CUDA's own way to hide the GPUs of a machine that has some. */
const hidden = { ...process.env, CUDA_VISIBLE_DEVICES: "-1", XDG_CACHE_HOME: at("cache") };
const setup = (args: string[], env: NodeJS.ProcessEnv = hidden) =>
  spawnSync(process.execPath, [SCRIPT, "--gpu", ...args], { encoding: "utf8", env, cwd: at() });

/** A package that is found where nothing is installed: `--check` and the backend look for it as Node's require does. */
function standIn(name: string, library: boolean, usesGpu: boolean): NodeJS.ProcessEnv {
  const folder = at(name, "@tensorflow", "tfjs-node-gpu");
  mkdirSync(`${folder}/lib/napi-v8`, { recursive: true });
  writeFileSync(`${folder}/package.json`, '{ "name": "@tensorflow/tfjs-node-gpu", "main": "index.js" }');
  if (library) writeFileSync(`${folder}/lib/napi-v8/tfjs_binding.node`, "");
  const tf = `{ tensor2d: () => 0, grad: () => () => ({ dataSync: () => [7, 11, 9, 13] }),
    getBackend: () => "tensorflow", backend: () => ({ isUsingGpuDevice: ${usesGpu} }) }`;
  writeFileSync(`${folder}/index.js`, `module.exports = ${tf};`);
  return { ...hidden, NODE_PATH: dirname(dirname(folder)) };
}

describe("tfjs-node-gpu", () => {
  beforeAll(() => makeDense(at, 4));

  test("its set-up downloads nothing where no GPU can be used, and says so", () => {
    const { status, stderr } = setup([]);
    expect(stderr).toBe(
      'setup: CUDA_VISIBLE_DEVICES="-1" hides every GPU, so nothing was downloaded; --force downloads the 2.4 GB all the same.\n',
    );
    expect(status).toBe(1);
    expect(readdirSync(at())).not.toContain("cache");
  });

  test.each<[string, boolean, boolean, number, RegExp]>([
    [
      "without its native library",
      false,
      true,
      1,
      /native library is not installed; "node .*setup-tfjs-node\.mjs --gpu"/,
    ],
    ["that computes on the CPU", true, false, 1, /^setup: TensorFlow finds no GPU that it can use\n$/],
    ["that computes on a GPU", true, true, 0, /^$/],
  ])("a package %s is told apart before it is imported", (name, library, usesGpu, status, message) => {
    const result = setup(["--check", "--force"], standIn(name.replaceAll(" ", "-"), library, usesGpu));
    expect(result.stderr).toMatch(message);
    expect(result.status).toBe(status);
  });

  test.each([
    ["asked for by name, it is refused with one sentence", ["--backend", "tfjs-node-gpu"], 1],
    ["else tfjs-node is taken", [], 0],
  ])("where the GPUs are hidden it is not imported: %s", (_, backend, status) => {
    const env = standIn("fatal", true, true);
    writeFileSync(`${env.NODE_PATH}/@tensorflow/tfjs-node-gpu/index.js`, "process.abort();");
    const out = at(`out-${status}`);
    const args = ["retrain", at("dense"), "--data", at("pictures"), "-o", out, "--epochs", "1", "--batch", "4"];
    const result = spawnSync(process.execPath, [BIN, ...args, ...backend], { encoding: "utf8", env });
    expect(result.stderr).toMatch(
      status ? /tfjs-node-gpu: CUDA_VISIBLE_DEVICES="-1" hides every GPU\)/ : /^backend: tfjs-node \(tensorflow\)/m,
    );
    expect(result.status).toBe(status);
  });
});
