// Brings up @tensorflow/tfjs-node: already working, else its stock install, else built from packages.
//   npm run setup            (npm test runs it first)
// The stock install downloads a prebuilt addon and libtensorflow. Where that host is blocked, the same addon is
// compiled here from the npm package's own two C++ files against the libraries inside PyPI's tensorflow-cpu wheel.
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { createRequire } from "node:module";
import { homedir, tmpdir } from "node:os";
import { dirname, join } from "node:path";

const TENSORFLOW = "2.18.1"; // the newest release whose C API tfjs-node 4.22.0 was checked against
const WHEEL_PARTS = [
  "tensorflow/libtensorflow_cc.so.2",
  "tensorflow/libtensorflow_framework.so.2",
  "tensorflow/include/tensorflow/c/",
  "tensorflow/include/tensorflow/core/platform/ctstring",
  "tensorflow/include/tsl/platform/ctstring",
  "tensorflow/include/xla/tsl/c/",
  "tensorflow/include/tensorflow/tsl/platform/ctstring",
  "tensorflow/include/tensorflow/compiler/xla/tsl/c/",
];

const require = createRequire(new URL("../tools/package.json", import.meta.url));
const packageDir = dirname(require.resolve("@tensorflow/tfjs-node/package.json"));

// A child process, because a failed native import cannot be tried again in the same one.
const SMOKE_TEST = `
  const tf = require("@tensorflow/tfjs-node");
  const x = tf.tensor2d([[1, 2], [3, 4]]);
  const y = tf.grad((v) => tf.matMul(v, v).sum())(x).dataSync();
  if (tf.getBackend() !== "tensorflow" || y.join() !== "7,11,9,13") throw new Error("gave " + y + " on " + tf.getBackend());`;

function works() {
  const shims = "util=require('util');util.isNullOrUndefined??=(v)=>v==null;util.isArray??=Array.isArray;"; // gone in Node 24
  const run = spawnSync(process.execPath, ["-e", shims + SMOKE_TEST], {
    cwd: packageDir,
    encoding: "utf8",
  });
  return run.status === 0;
}

function stockInstall() {
  const run = spawnSync(process.execPath, ["scripts/install.js"], {
    cwd: packageDir,
    stdio: "ignore",
    timeout: 300_000,
  });
  return run.status === 0 && works();
}

function buildFromWheel() {
  const cache = join(
    process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"),
    "slimvit",
    `tensorflow-cpu-${TENSORFLOW}`,
  );
  if (!existsSync(cache)) unpackWheel(cache);
  const root = join(cache, "tensorflow");

  rmSync(join(packageDir, "deps"), { recursive: true, force: true });
  mkdirSync(join(packageDir, "deps"));
  symlinkSync(root, join(packageDir, "deps", "lib"));

  // The addon is compiled once a cache; its rpath leads to deps/lib beside whichever copy of the package it is in.
  const addonDir = join(packageDir, "lib", "napi-v8");
  mkdirSync(addonDir, { recursive: true });
  execFileSync(
    "g++",
    [
      "-std=c++17",
      "-O2",
      "-fPIC",
      "-shared",
      "-DNAPI_VERSION=8",
      "-w",
      "-I",
      require("node-api-headers").include_dir,
      "-I",
      join(root, "include"),
      join(packageDir, "binding", "tfjs_backend.cc"),
      join(packageDir, "binding", "tfjs_binding.cc"),
      join(root, "libtensorflow_cc.so.2"),
      join(root, "libtensorflow_framework.so.2"),
      "-Wl,-rpath,$ORIGIN/../../deps/lib",
      "-o",
      join(addonDir, "tfjs_binding.node"),
    ],
    { stdio: ["ignore", "inherit", "inherit"] },
  );
}

function unpackWheel(cache) {
  const temp = mkdtempSync(join(tmpdir(), "slimvit-"));
  try {
    execFileSync(
      "python3",
      [
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version",
        "3.11",
        "--platform",
        "manylinux2014_x86_64",
        `tensorflow-cpu==${TENSORFLOW}`,
        "-d",
        temp,
      ],
      { stdio: ["ignore", "inherit", "inherit"] },
    );
    const wheel = join(
      temp,
      readdirSync(temp).find((name) => name.endsWith(".whl")),
    );
    mkdirSync(dirname(cache), { recursive: true });
    const unpacked = mkdtempSync(`${cache}.part-`); // beside the cache, so that the rename is atomic
    execFileSync("python3", [
      "-c",
      `
import sys, zipfile
wheel, out, parts = sys.argv[1], sys.argv[2], tuple(sys.argv[3:])
with zipfile.ZipFile(wheel) as z:
    z.extractall(out, [n for n in z.namelist() if n.startswith(parts)])`,
      wheel,
      unpacked,
      ...WHEEL_PARTS,
    ]);
    renameSync(unpacked, cache);
  } finally {
    rmSync(temp, { recursive: true, force: true });
  }
}

function main() {
  if (works()) return;
  console.error("setup: bringing up @tensorflow/tfjs-node (stock install, else built from the tensorflow-cpu wheel) …");
  if (stockInstall()) return;
  let reason = "the addon it built does not run";
  try {
    if (process.platform !== "linux" || process.arch !== "x64")
      throw new Error("the wheel route covers Linux on x86-64 only");
    buildFromWheel();
    if (works()) return console.error(`setup: tfjs-node is ready, on TensorFlow ${TENSORFLOW}`);
  } catch (error) {
    reason = error.message.split("\n")[0];
  }
  console.error(
    `setup: @tensorflow/tfjs-node cannot be brought up (${reason}). It needs either its download host, ` +
      "or python3 with pip, g++ and a package registry; then run npm run setup again.",
  );
  process.exit(1);
}

main();
