import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import { compareGradients, vit } from "../../tools/bench/benchTrain.ts";
import { openBackend } from "../../tools/training/backend.ts";
import {
  BIN,
  CLASSES,
  randomTensors,
  slimvitJson,
  tinyArchitecture,
  writeCheckpoint,
  writePictures,
} from "./fixtures.ts";
import { FORMS, gradients } from "./gradients.ts";
import { swiftShader } from "./swiftshader.ts";

type Gradients = Map<string, Float32Array>;

describe("gradients of a slim ViT", () => {
  let onNode: Gradients[];
  const others: Record<string, Gradients[]> = {};
  beforeAll(async () => {
    const node = await openBackend("tfjs-node");
    onNode = await Promise.all(FORMS.map(([, options, network]) => gradients(node.tf, options, network)));
    const wasm = await openBackend("wasm");
    expect(wasm.tf.getBackend()).toBe("wasm");
    others.wasm = await Promise.all(FORMS.map(([, options, network]) => gradients(wasm.tf, options, network)));
    others.webgpu = onWebgpu();
  }, 240_000);

  describe.each(["wasm", "webgpu"])("%s", (backend) => {
    test.each(FORMS.map(([name], k) => [name, k] as const))("%s: as tfjs-node's", (_, k) => {
      const grads = others[backend][k];
      expect([...grads.keys()]).toEqual([...onNode[k].keys()]);
      for (const [name, expected] of onNode[k]) {
        const largest = expected.reduce((max, v) => Math.max(max, Math.abs(v)), 1e-4);
        const actual = grads.get(name)!;
        expect(actual).toHaveLength(expected.length);
        const worst = expected.reduce((max, v, i) => Math.max(max, Math.abs(v - actual[i])), 0);
        if (!(worst / largest <= 1e-4)) throw new Error(`${name}: off by ${worst / largest} of its largest value`);
      }
    });
  });

  test("differ from form to form, so each was really computed", () => {
    const heads = onNode.map((grads) => grads.get("head.weight")!.join());
    expect(new Set(heads).size).toBe(FORMS.length);
  });
});

/** In a process of its own: the Vulkan driver's place has to be known when a process starts. */
function onWebgpu(): Gradients[] {
  const script = fileURLToPath(new URL("gradients-webgpu.ts", import.meta.url));
  const { stdout, stderr, status } = spawnSync(process.execPath, ["--import", "tsx", script], {
    encoding: "utf8",
    env: { ...process.env, ...swiftShader() },
    maxBuffer: 2 ** 28,
  });
  if (status !== 0) throw new Error(`WebGPU in Node exited ${status}: ${stderr}`);
  expect(stderr).toContain("backend: webgpu (webgpu)");
  const lines = stdout.trim().split("\n");
  return lines.map(
    (line) =>
      new Map((JSON.parse(line) as [string, number[]][]).map(([name, data]) => [name, Float32Array.from(data)])),
  );
}

test("gradients written by hand are those of automatic differentiation", async () => {
  const { tf } = await openBackend("tfjs-node");
  expect(compareGradients(tf, vit(16, 4, 128, 2))).toBeLessThan(1e-4);
});

test("a search runs on WebGPU in Node: checkpoints, importance and all", async () => {
  const dir = mkdtempSync(join(tmpdir(), "slimvit-webgpu-"));
  try {
    const at = (name: string) => join(dir, name);
    writeCheckpoint(at("tiny.safetensors"), randomTensors(tinyArchitecture(), CLASSES.length, 1));
    await writePictures(at("pictures"), 4, ["0", "1", "2"]);
    await slimvitJson("import", at("tiny.safetensors"), "-o", at("dense"), "--heads", "2");
    const args = [
      "search",
      at("dense"),
      "-o",
      at("search"),
      "--data",
      at("pictures"),
      "--split",
      "all",
      "--teacher",
      at("dense"),
    ];
    args.push("--epochs", "1", "--batch", "6", "--checkpoint-seconds", "0", "--backend", "webgpu", "--json");
    const { status, stdout, stderr } = spawnSync(process.execPath, [BIN, ...args], {
      encoding: "utf8",
      env: { ...process.env, ...swiftShader() },
    });
    expect(stderr).toContain("backend: webgpu (webgpu)");
    expect(status).toBe(0);
    expect(JSON.parse(stdout).steps).toBe(2);
    const { macsShare } = await slimvitJson<{ macsShare: number }>(
      "compress",
      at("search"),
      "-o",
      at("slim"),
      "--macs",
      "0.5",
    );
    expect(macsShare).toBeLessThanOrEqual(0.5);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
