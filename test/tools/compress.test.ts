import { readdirSync, readFileSync } from "node:fs";
import { beforeAll, expect, test } from "vitest";
import { countParams } from "../../src/format/model.ts";
import { selfTestPixels } from "../../src/format/write.ts";
import { forward } from "../../src/tfjs/forward.ts";
import { allocate } from "../../tools/masks/allocate.ts";
import type { CompressReport } from "../../tools/masks/compress.ts";
import { cutTensors, slimArchitecture } from "../../tools/masks/masks.ts";
import { readModelFolder } from "../../tools/models/folders.ts";
import { openBackend } from "../../tools/training/backend.ts";
import { ghostsAt } from "../../tools/training/retrain.ts";
import { weightsOnBackend } from "../../tools/training/teacher.ts";
import { expectClose } from "../helpers.ts";
import { CLASSES, makeDense, slimvit, slimvitJson, tinyArchitecture, workplace } from "./fixtures.ts";

const at = workplace("compress");
const train = () => ["--data", at("pictures"), "--batch", "6", "--epochs", "4", "--warmup", "0"];

beforeAll(async () => {
  await makeDense(at, 10);
  await slimvitJson("search", at("dense"), "-o", at("search"), ...train());
});

test("--budgets makes a model for each, nested, named after its share of the MACs", async () => {
  const reports = await slimvitJson<CompressReport[]>(
    "compress",
    at("search"),
    "-o",
    at("many"),
    "--macs",
    "--budgets",
    "0.5,0.9,0.725",
  );
  expect(readdirSync(at("many")).sort()).toEqual(["macs-50", "macs-72.5", "macs-90"]);
  expect(reports.map(({ out }) => out)).toEqual(["macs-90", "macs-72.5", "macs-50"].map((name) => at("many", name)));
  reports.forEach(({ macsShare }, k) => {
    expect(macsShare).toBeLessThanOrEqual([0.9, 0.725, 0.5][k]);
    expect(macsShare).toBeGreaterThan([0.9, 0.725, 0.5][k] - 0.05);
  });
  const [large, , small] = reports.map(({ out }) => readModelFolder(out).manifest);
  large.blocks.forEach((block, i) => {
    expect(block.mlpHidden).toBeGreaterThanOrEqual(small.blocks[i].mlpHidden);
    expect(small.blocks[i].keepIdx.every((token) => block.keepIdx.includes(token))).toBe(true);
  });
  expect(large.name).toBe("many-macs-90");
});

test("a share beside --budgets is one of them, and one that comes twice makes one model", async () => {
  const args = ["compress", at("search"), "-o", at("beside"), "--params", "0.9", "--budgets", "0.8,0.8"];
  const reports = await slimvitJson<CompressReport[]>(...args);
  expect(reports.map(({ out }) => out)).toEqual([at("beside", "params-90"), at("beside", "params-80")]);
  reports.forEach(({ paramsShare }, k) => void expect(paramsShare).toBeLessThanOrEqual([0.9, 0.8][k]));
});

test("--params counts parameters: every token stays, the target is met, one unit more would miss it", async () => {
  const { paramsShare, params, out } = await slimvitJson<CompressReport>(
    "compress",
    at("search"),
    "-o",
    at("lean"),
    "--params",
    "0.6",
  );
  expect(paramsShare).toBeLessThanOrEqual(0.6);
  const { manifest } = readModelFolder(out);
  expect(manifest.blocks.every(({ keepIdx }) => keepIdx.length === 17)).toBe(true);
  expect(countParams(manifest, 3)).toBe(params);
  expect(params / paramsShare).toBeCloseTo(countParams(tinyArchitecture(), 3), 6);
  expect(params + 4 * 16 + 3).toBeGreaterThan(0.6 * countParams(tinyArchitecture(), 3));
});

test("a parameter target takes what matters least for its parameters", () => {
  const arch = tinyArchitecture();
  const importance = arch.blocks.map(() => ({
    attn: new Float32Array(16).fill(1),
    mlp: Float32Array.from({ length: 24 }, (_, unit) => (unit < 4 ? 0.1 : 1)),
    patch: new Float32Array(17), // of no importance at all, and no parameters either
  }));
  const frozen = { attn: false, mlp: false, patch: false };
  const dense = countParams(arch, CLASSES.length);
  const twelveUnits = (dense - 12 * (2 * 16 + 1)) / dense;
  const masks = allocate(arch, "channel", importance, frozen, dense, twelveUnits, "params");
  for (const { attn, mlp, tokens } of masks) {
    expect(mlp.map((kept, unit) => kept === unit >= 4).every(Boolean)).toBe(true);
    expect([...attn, ...tokens].every(Boolean)).toBe(true);
  }
});

test.each<[string[], RegExp]>([
  [["--params", "0.1"], /--params 0\.1 cannot be reached: \d+\.\d % is left/],
  [["--macs", "0.5", "--params", "0.5"], /--macs and --params are two targets/],
  [["--macs"], /give --macs a share, or --budgets a list/],
  [["--budgets", "0.5,x"], /'0\.5,x' is invalid\. expected a number/],
  [["--budgets", "0.5", "--attn", "0.5"], /--budgets are shares of MACs or parameters/],
  [["--params", "0.5", "--mlp", "0.5"], /--params takes the place of --attn/],
])("%j is one sentence", async (args, message) => {
  const { status, stderr } = await slimvit("compress", at("search"), "-o", at("never"), ...args);
  expect(stderr).toMatch(message);
  expect(status).toBe(2);
});

test("a slim model with its ghosts is the dense one whose removed tokens are zeroed after every norm", async () => {
  const { tf } = await openBackend("tfjs-node");
  const dense = readModelFolder(at("dense"));
  const arch = tinyArchitecture();
  const masks = arch.blocks.map((_, i) => ({
    attn: Array.from({ length: 16 }, (_, c) => c % 3 !== i),
    mlp: Array.from({ length: 24 }, (_, c) => c % 5 !== i),
    tokens: Array.from({ length: 17 }, (_, token) => token === 0 || token > 3 + 4 * i),
  }));
  const slim = slimArchitecture(dense.manifest, masks);
  const cut = { ...dense, manifest: slim, tensors: cutTensors(arch, dense.tensors, masks) };
  const everyToken = masks.map((mask) => ({ ...mask, tokens: mask.tokens.map(() => true) }));
  const masked = {
    ...dense,
    manifest: slimArchitecture(dense.manifest, everyToken),
    tensors: cutTensors(arch, dense.tensors, everyToken),
  };
  const [ghosted, zeroed, gone] = tf.tidy(() => {
    const pixels = tf.tensor4d(selfTestPixels(arch, 3), [1, 3, 32, 32]);
    const tokenGates = masks.map(({ tokens }) => tf.tensor1d(tokens.map(Number)));
    const run = (model: typeof cut, options: object) =>
      forward(tf, model.manifest, weightsOnBackend(tf, model), pixels, options).logits.dataSync();
    return [
      run(cut, { ghosts: ghostsAt(slim, 0) }),
      run(masked, { tokenGates }),
      run(cut, { ghosts: ghostsAt(slim, 1) }),
    ];
  });
  expectClose(ghosted, zeroed, 1e-5);
  expect(Math.max(...gone.map((v, k) => Math.abs(v - zeroed[k])))).toBeGreaterThan(1e-3);
  expectClose(
    gone,
    tf.tidy(() =>
      forward(
        tf,
        slim,
        weightsOnBackend(tf, cut),
        tf.tensor4d(selfTestPixels(arch, 3), [1, 3, 32, 32]),
      ).logits.dataSync(),
    ),
    0,
  );
});

test("ghosts are gone from half time on", () => {
  const arch = slimArchitecture(
    tinyArchitecture(),
    tinyArchitecture().blocks.map(() => ({
      attn: Array(16).fill(true),
      mlp: Array(24).fill(true),
      tokens: Array.from({ length: 17 }, (_, token) => token < 5),
    })),
  );
  expect(ghostsAt(arch, 0)).toEqual([12, 12, 12]);
  expect(ghostsAt(arch, 0.25)).toEqual([6, 6, 6]);
  for (const progress of [0.5, 0.75, 1]) expect(ghostsAt(arch, progress)).toEqual([0, 0, 0]);
});

test("retrain --ghost starts from another loss than without, and ends with a plain slim model", async () => {
  await slimvitJson("compress", at("search"), "-o", at("slim"), "--attn", "0.8", "--mlp", "0.8", "--patch", "0.4");
  await slimvitJson("retrain", at("slim"), "-o", at("plain"), ...train());
  await slimvitJson("retrain", at("slim"), "-o", at("ghost"), "--ghost", ...train());
  const losses = (name: string) =>
    (JSON.parse(readFileSync(at(name, "history.json"), "utf8")) as { loss: number }[]).map(({ loss }) => loss);
  expect(losses("ghost")[0]).not.toBeCloseTo(losses("plain")[0], 4);
  const [ghost, plain] = [readModelFolder(at("ghost")), readModelFolder(at("plain"))];
  expect(ghost.manifest.blocks).toEqual(plain.manifest.blocks);
  expect([...ghost.tensors.keys()]).toEqual([...plain.tensors.keys()]);
});
