// Brings up @tensorflow/tfjs-node: already working, else its stock install, else built from packages.
//   npm run setup            (npm test runs it first)
// The stock install downloads a prebuilt addon and libtensorflow. Where that host is blocked, the same addon is
// compiled here from the npm package's own two C++ files against the libraries inside PyPI's tensorflow-cpu wheel.
//
// With --gpu the same for @tensorflow/tfjs-node-gpu, always from packages (its stock install wants the CUDA of TensorFlow
// 2.9): the tensorflow wheel and the nvidia-* wheels that its extra `and-cuda` pins: 2.4 GB to download, 3.9 GB on disk.
//   npm run setup:gpu        (--force: also where no NVIDIA driver is)
//   node setup-tfjs-node.mjs --gpu --check     exit 0 if it runs on a GPU, else one sentence; changes nothing
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { createRequire } from "node:module";
import { homedir, tmpdir } from "node:os";
import { dirname, join } from "node:path";

const TENSORFLOW = "2.18.1"; // the newest release whose C API tfjs-node 4.22.0 was checked against
const TFJS_NODE = "4.22.0";
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
const gpu = process.argv.includes("--gpu");
const force = process.argv.includes("--force");
const NAME = gpu ? "@tensorflow/tfjs-node-gpu" : "@tensorflow/tfjs-node";

// A child process, because a failed native import cannot be tried again in the same one.
const SMOKE_TEST = `
  const util = require("util"); // functions that Node 24 has removed
  util.isNullOrUndefined ??= (v) => v == null;
  util.isArray ??= Array.isArray;
  const tf = require(".");
  const x = tf.tensor2d([[1, 2], [3, 4]]);
  const y = tf.grad((v) => tf.matMul(v, v).sum())(x).dataSync();
  if (tf.getBackend() !== "tensorflow" || y.join() !== "7,11,9,13") throw new Error("gave " + y + " on " + tf.getBackend());
  process.exitCode = tf.backend().isUsingGpuDevice ? 10 : 11;`;

/** undefined where the package is not installed */
function packageFolder() {
  try {
    return dirname(require.resolve(`${NAME}/package.json`));
  } catch {
    return undefined;
  }
}

/** @returns "gpu" or "cpu", where it computed; undefined when it does not work */
function worksOn() {
  const { status } = spawnSync(process.execPath, ["-e", SMOKE_TEST], { cwd: packageFolder(), stdio: "ignore" });
  return { 10: "gpu", 11: "cpu" }[status];
}

const works = () => worksOn() !== undefined;

function stockInstall() {
  const run = spawnSync(process.execPath, ["scripts/install.js"], {
    cwd: packageFolder(),
    stdio: "ignore",
    timeout: 300_000,
  });
  return run.status === 0 && works();
}

function buildFromWheels() {
  const packageDir = packageFolder();
  const cache = join(
    process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"),
    "slimvit",
    `tensorflow-${gpu ? "cuda" : "cpu"}-${TENSORFLOW}`,
  );
  if (!existsSync(cache)) unpackWheels(cache);
  const root = join(cache, "tensorflow");

  rmSync(join(packageDir, "deps"), { recursive: true, force: true });
  mkdirSync(join(packageDir, "deps"));
  symlinkSync(root, join(packageDir, "deps", "lib")); // TensorFlow finds CUDA by $ORIGIN/../nvidia/*/lib

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

function unpackWheels(cache) {
  const temp = mkdtempSync(join(tmpdir(), "slimvit-"));
  try {
    mkdirSync(dirname(cache), { recursive: true });
    const unpacked = mkdtempSync(`${cache}.part-`); // beside the cache, so that the rename is atomic
    try {
      const tensorflow = download(temp, `${gpu ? "tensorflow" : "tensorflow-cpu"}==${TENSORFLOW}`);
      const pins = gpu ? cudaPins(tensorflow) : [];
      unpack(tensorflow, unpacked, WHEEL_PARTS);
      for (const pin of pins) unpack(download(temp, pin), unpacked, ["nvidia/"]);
      renameSync(unpacked, cache);
    } finally {
      rmSync(unpacked, { recursive: true, force: true });
    }
  } finally {
    rmSync(temp, { recursive: true, force: true });
  }
}

/** @param folder without a wheel; @returns the wheel */
function download(folder, requirement) {
  if (gpu) console.error(`setup: downloading ${requirement} …`);
  execFileSync(
    "python3",
    [
      "-m",
      "pip",
      "download",
      "--quiet",
      "--disable-pip-version-check",
      ...(gpu ? ["--no-cache-dir"] : []), // gigabytes, kept unpacked
      "--no-deps",
      "--only-binary=:all:",
      "--python-version",
      "3.11",
      "--platform",
      "manylinux2014_x86_64",
      requirement,
      "-d",
      folder,
    ],
    { stdio: ["ignore", "inherit", "inherit"] },
  );
  const wheel = readdirSync(folder).find((name) => name.endsWith(".whl"));
  return join(folder, wheel);
}

/** The packages that `pip install tensorflow[and-cuda]` would add, with the versions in the wheel's metadata. */
function cudaPins(wheel) {
  const script = `
import re, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as z:
    text = z.read(next(n for n in z.namelist() if n.endswith(".dist-info/METADATA"))).decode()
for name, version in re.findall(r"Requires-Dist: (nvidia-[\\w-]+) *==([\\w.]+) *;.*and-cuda", text):
    print(name + "==" + version)`;
  return execFileSync("python3", ["-c", script, wheel], { encoding: "utf8" }).split(/\s+/).filter(Boolean);
}

/** Unpacks the files whose names start with one of `starts`, and removes the wheel. */
function unpack(wheel, folder, starts) {
  const script = `
import sys, zipfile
wheel, out, parts = sys.argv[1], sys.argv[2], tuple(sys.argv[3:])
with zipfile.ZipFile(wheel) as z:
    z.extractall(out, [n for n in z.namelist() if n.startswith(parts) and not n.endswith(".a")])`;
  execFileSync("python3", ["-c", script, wheel, folder, ...starts]);
  rmSync(wheel);
}

/** The reason why no CUDA program can run here; undefined where one may. */
function noGpu() {
  if (process.platform !== "linux") return "CUDA is set up on Linux only";
  const { CUDA_VISIBLE_DEVICES: visible } = process.env;
  if (visible !== undefined && /^(-1)?$/.test(visible.trim()))
    return `CUDA_VISIBLE_DEVICES="${visible}" hides every GPU`;
  const drivers = ["/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg"]; // the last is Windows' in WSL
  return drivers.some((path) => existsSync(path)) ? undefined : "no NVIDIA driver is here";
}

function fail(reason) {
  console.error(`setup: ${reason}`);
  process.exit(1);
}

/** The same check as the backend's before its import. Without it the CPU would compute under the name of a GPU. */
function check() {
  const refusal = packageFolder() ? (force ? undefined : noGpu()) : "not installed";
  if (refusal) fail(refusal);
  if (!existsSync(join(packageFolder(), "lib", "napi-v8", "tfjs_binding.node")))
    fail(`its native library is not installed; "node ${process.argv[1]} --gpu" installs it`);
  const on = worksOn();
  if (on !== "gpu") fail(on ? "TensorFlow finds no GPU that it can use" : "its native library does not run here");
}

function setUpGpu() {
  const refusal = force ? undefined : noGpu();
  if (refusal) fail(`${refusal}, so nothing was downloaded; --force downloads the 2.4 GB all the same.`);
  if (!packageFolder()) {
    const args = ["install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", `${NAME}@${TFJS_NODE}`];
    execFileSync("npm", args, { stdio: ["ignore", 2, 2] });
  }
  if (!works()) build();
  const on = worksOn();
  console.error(
    on === "gpu"
      ? `setup: tfjs-node-gpu is ready, on TensorFlow ${TENSORFLOW}`
      : "setup: tfjs-node-gpu loads, but TensorFlow finds no GPU; training here will not take it",
  );
}

function setUpCpu() {
  if (works()) return;
  console.error("setup: bringing up @tensorflow/tfjs-node (stock install, else built from the tensorflow-cpu wheel) …");
  if (stockInstall()) return;
  build();
  console.error(`setup: tfjs-node is ready, on TensorFlow ${TENSORFLOW}`);
}

function build() {
  let reason = "the addon it built does not run";
  try {
    if (process.platform !== "linux" || process.arch !== "x64")
      throw new Error("the wheel route covers Linux on x86-64 only");
    buildFromWheels();
    if (works()) return;
  } catch (error) {
    reason = error.message.split("\n")[0];
  }
  const host = gpu ? "python3 with pip, g++" : "either its download host, or python3 with pip, g++";
  fail(`${NAME} cannot be brought up (${reason}). It needs ${host} and a package registry; then run this again.`);
}

if (gpu && process.argv.includes("--check")) check();
else if (gpu) setUpGpu();
else setUpCpu();
