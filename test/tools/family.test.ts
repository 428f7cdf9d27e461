/** The offline stage on a tiny network of each family: searched, compressed, compensated, retrained, rounded, finetuned. */
import { writeFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { openSimd } from "../../src/engines/simd/engine.ts";
import type { Architecture, Model, Tensors } from "../../src/format/model.ts";
import { featureDim, MEANS, tokenCounts } from "../../src/format/model.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import { forward as tfjsForward } from "../../src/tfjs/forward.ts";
import { compressCommand } from "../../tools/commands/compress.ts";
import { finetuneCommand } from "../../tools/commands/finetune.ts";
import { retrainCommand } from "../../tools/commands/retrain.ts";
import { searchCommand } from "../../tools/commands/search.ts";
import { evalPixels, openDataset } from "../../tools/data/data.ts";
import { compensate } from "../../tools/masks/compensate.ts";
import { type CompressOptions, type CompressReport, compress } from "../../tools/masks/compress.ts";
import { cutTensors, slimArchitecture } from "../../tools/masks/masks.ts";
import { type SearchOptions, search } from "../../tools/masks/search.ts";
import { readModelFolder, writeModelFolder } from "../../tools/models/folders.ts";
import { lookAt } from "../../tools/report/attention.ts";
import { openBackend } from "../../tools/training/backend.ts";
import { type FinetuneOptions, finetune } from "../../tools/training/finetune.ts";
import { type RetrainOptions, retrain } from "../../tools/training/retrain.ts";
import { weightsOnBackend } from "../../tools/training/teacher.ts";
import { expectClose, manifestOf, randomModel, randomPixels } from "../helpers.ts";
import { CLASSES, deviceProfile, tinyArchitecture, workplace, writePictures } from "./fixtures.ts";

const at = workplace("family");

/** Dense, 32×32 px in patches of 8, two heads of 8 channels, 24 units. */
const tiny = (more: Partial<Architecture>): Architecture =>
  tinyArchitecture({ prefixTokens: 1, distilled: false, ...more });
const rope: Partial<Architecture> = { position: "rope", rope: { rows: [-0.75, 0.5], columns: [-0.75, 0.5] } };

const merging = (arch: Architecture): Architecture => ({
  ...arch,
  blocks: arch.blocks.map((block, i) => ({ ...block, merge: [3, 2, 0][i] })),
});

const NETWORKS: Record<string, Architecture> = {
  CLIP: tiny({ preNorm: true, activation: "quick_gelu", layerNormEps: 1e-5, projection: 10, head: undefined }),
  "CLIP-zero-shot": tiny({
    ...{ preNorm: true, activation: "quick_gelu", projection: 10 },
    head: { scores: "softmax", cosine: true },
  }),
  SigLIP: tiny({
    ...{ prefixTokens: 0, classToken: false, pooling: "map", poolHeads: 2, poolHidden: 20, activation: "gelu_tanh" },
    ...{ poolActivation: "gelu_tanh", head: { scores: "sigmoid", cosine: true } },
  }),
  "DINOv2-registers": tiny({ prefixTokens: 5, pooling: "class+mean" }),
  "DINOv2-embedding": tiny({ prefixTokens: 5, pooling: "class+mean", head: undefined }),
  "EVA-02": tiny({ ...rope, mlp: "swiglu", hiddenNorm: 24, activation: "silu", pooling: "mean", finalNorm: "pooled" }),
  DINOv3: tiny({ ...rope, prefixTokens: 5, mlp: "swiglu", activation: "silu" }),
  BEiT: tiny({ position: "relative", pooling: "mean", finalNorm: "pooled" }),
  "qk-norms": tiny({ prefixTokens: 0, classToken: false, pooling: "mean", qkNorm: true, activation: "relu" }),
  merging: merging(tiny({})),
  "merging-EVA": merging(tiny({ ...rope, mlp: "swiglu", hiddenNorm: 24, activation: "silu" })),
};

const names = Object.keys(NETWORKS);
const isMerging = (name: string) => NETWORKS[name].blocks.some(({ merge }) => merge > 0);

beforeAll(async () => {
  await writePictures(at("pictures"), 5);
  for (const [k, name] of names.entries()) {
    const { tensors } = randomModel(NETWORKS[name], k, CLASSES.length);
    const labels = NETWORKS[name].head ? CLASSES.map((label) => ({ id: label, label })) : [];
    writeModelFolder(at(name), { ...manifestOf(NETWORKS[name], CLASSES.length), name, labels }, tensors, ["f32"]);
  }
});

const TRAINING = ["--batch", "9", "--epochs", "2", "--warmup", "0", "--lr", "1e-3"];

async function searched(name: string, out: string, ...args: string[]) {
  const command = searchCommand().action(() => {});
  const masks = isMerging(name) ? ["--w-patch", "0"] : [];
  const all = ["--data", at("pictures"), "--teacher", at(name), ...masks, ...TRAINING, ...args];
  command.parse([at(name), "-o", at(out), ...all], { from: "user" });
  return search(at(name), command.opts<SearchOptions>());
}

async function compressed(name: string, out: string, ...args: string[]) {
  const command = compressCommand().action(() => {});
  command.parse([at(name), "-o", at(out), ...args], { from: "user" });
  return (await compress(at(name), command.opts<CompressOptions>())) as CompressReport;
}

async function retrained(name: string, out: string, ...args: string[]) {
  const command = retrainCommand().action(() => {});
  command.parse([at(name), "-o", at(out), "--data", at("pictures"), ...TRAINING, ...args], { from: "user" });
  return retrain(at(name), command.opts<RetrainOptions>());
}

/** Activations of int8 are rounded by the engine, not by the reference. */
async function expectRuns(model: Model, tolerance = model.dtype === "int8" ? 0.1 : 1e-3): Promise<void> {
  const pixels = randomPixels(model.manifest, 3);
  const expected = forward(model, pixels, { explain: true });
  const engine = await openSimd(model, { threads: 1 });
  const actual = await engine.run(pixels, { forcedPairs: expected.pairs });
  engine.dispose();
  expectClose(actual.features, expected.features, tolerance, "features");
}

describe.each(names)("%s", (name) => {
  test("is searched, compressed and retrained, each better by its own measure", async () => {
    const { history } = await searched(name, `${name}-search`, "--w-attn", "10", "--w-mlp", "10");
    const penalty = ({ attn, mlp, patch = 0 }: (typeof history)[number]) => attn + mlp + patch;
    const steps = history.filter((line) => "attn" in line);
    expect(penalty(steps.at(-1)!)).toBeLessThan(penalty(steps[0]));
    const report = await compressed(`${name}-search`, `${name}-slim`, "--macs", "0.7");
    expect(report.macsShare).toBeLessThanOrEqual(0.7);
    expect(report.maxAbsDiff).toBeLessThan(1e-4);
    const slim = readModelFolder(at(`${name}-slim`));
    expect(slim.manifest.blocks.map(({ merge }) => merge)).toEqual(NETWORKS[name].blocks.map(({ merge }) => merge));
    await expectRuns(slim);

    const learning = ["--teacher", at(name), "--alpha", "1", "--epochs", "40", "--lr", "3e-3"];
    const trained = await retrained(`${name}-slim`, `${name}-trained`, ...learning);
    const losses = trained.history.filter((line) => line.kd !== undefined).map(({ kd }) => kd);
    const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
    expect(mean(losses.slice(-5))).toBeLessThan(0.8 * mean(losses.slice(0, 5)));
    if (!NETWORKS[name].head) {
      const cosines = trained.history.filter((line) => "val.cosine" in line).map((line) => line["val.cosine"]);
      expect(cosines.at(-1)).toBeGreaterThan(cosines[0]);
      expect(trained.valCosine).toBe(cosines.at(-1));
    }
    await expectRuns(readModelFolder(at(`${name}-trained`)));
  });
});

describe.each(names)("%s, cut, with the next linears solved again for the kept inputs", (name) => {
  test("comes closer to the whole network than the plain cut, tokens that leave on the way included", async () => {
    const { tf } = await openBackend();
    const model = readModelFolder(at(name));
    const { prefixTokens } = model.manifest;
    const blocks = model.manifest.blocks.map((block, i) => {
      const leaves = (token: number) => !isMerging(name) && i > 0 && token >= prefixTokens && (token + i) % 5 === 0;
      return { ...block, keepIdx: block.keepIdx.filter((token) => !leaves(token)) };
    });
    const manifest = { ...model.manifest, blocks };
    const every = (n: number, period: number) => Array.from({ length: n }, (_, k) => k % period < period - 2);
    const masks = blocks.map(({ keepIdx }) => ({
      ...{ attn: every(16, 8), mlp: every(24, 8) },
      tokens: model.manifest.blocks[0].keepIdx.map((token) => keepIdx.includes(token)),
    }));
    const tensors = encodeTensors(model.tensors, "f32");
    const { pictures } = await openDataset([at("pictures")], "all");
    const { numTensors } = tf.memory();
    const solved = await compensate(tf, { manifest, tensors }, masks, pictures);
    expect(tf.memory().numTensors).toBe(numTensors);
    const pixels = await Promise.all(pictures.map((picture) => evalPixels(picture, manifest.preprocess)));
    const off = (own: Tensors) =>
      Math.hypot(
        ...pixels.flatMap((picture) => {
          const whole = forward({ ...model, manifest, tensors }, picture, { explain: true });
          const slim: Model = { manifest: slimArchitecture(manifest, masks), dtype: "f32", tensors: own };
          const { features } = forward(slim, picture, { forcedPairs: whole.pairs });
          return Array.from(features, (v, k) => v - whole.features[k]);
        }),
      );
    expect(off(solved.tensors)).toBeLessThan(0.8 * off(cutTensors(manifest, tensors, masks)));
  });

  test("keeps the shares that are asked for, RoPE's channels in pairs", async () => {
    const shares = ["--attn", "0.75", "--mlp", "0.75"];
    await compressed(name, `${name}-solved`, ...shares, "--compensate", "--data", at("pictures"), "--split", "all");
    const solved = readModelFolder(at(`${name}-solved`));
    expect(solved.manifest.blocks.map(({ mlpHidden }) => mlpHidden)).toEqual([18, 18, 18]);
    for (const { headDims } of solved.manifest.blocks) expect(headDims.reduce((a, b) => a + b)).toBe(12);
    expect(solved.manifest.blocks.map(({ merge }) => merge)).toEqual(NETWORKS[name].blocks.map(({ merge }) => merge));
    await expectRuns(solved);
  });
});

test("behind a norm inside the MLP, fc2 is solved for what the units are when others are gone: nothing is off in the mean", async () => {
  const { tf } = await openBackend();
  const { manifest, tensors: stored } = readModelFolder(at("EVA-02"));
  const tensors = encodeTensors(stored, "f32");
  const masks = manifest.blocks.map(({ keepIdx }) => ({
    ...{ attn: Array<boolean>(16).fill(true), mlp: Array.from({ length: 24 }, (_, unit) => unit % 2 === 0) },
    tokens: keepIdx.map(() => true),
  }));
  const { pictures } = await openDataset([at("pictures")], "all");
  const solved = await compensate(tf, { manifest, tensors }, masks, pictures);
  const pixels = await Promise.all(pictures.map((picture) => evalPixels(picture, manifest.preprocess)));
  /** Means of the last block's tokens, [embedDim]. */
  const means = (model: Model) => {
    const weights = weightsOnBackend(tf, model);
    const last = tf.tidy(() => {
      const batch = tf.stack(pixels.map((values) => tf.tensor(values, [3, 32, 32])));
      let x = batch;
      tfjsForward(tf, model.manifest, weights, batch, { onBlock: (tokens) => void (x = tokens) });
      return tf.mean(x, [0, 1]).dataSync() as Float32Array;
    });
    tf.dispose([...weights.values()]);
    return last;
  };
  const slim: Model = { manifest: slimArchitecture(manifest, masks), dtype: "f32", tensors: solved.tensors };
  const cut: Model = { ...slim, tensors: cutTensors(manifest, tensors, masks) };
  const [whole, left, plain] = [{ manifest, dtype: "f32" as const, tensors }, slim, cut].map(means);
  const off = (values: Float32Array) => Math.max(...values.map((v, d) => Math.abs(v - whole[d])));
  expect(off(plain)).toBeGreaterThan(0.1);
  expect(off(left)).toBeLessThan(1e-4);
});

test.each(["SigLIP", "EVA-02", "CLIP-zero-shot", "qk-norms", "merging", "DINOv2-embedding"])(
  "%s: trained on the grid of int8, from weights rounded by what the linears see",
  async (name) => {
    await retrained(name, `${name}-int8`, "--teacher", at(name), "--weight-step", "0.5");
    const model = readModelFolder(at(`${name}-int8`));
    expect(model.dtype).toBe("int8");
    await expectRuns(model);
  },
);

test.each(["CLIP", "DINOv2-embedding", "SigLIP"])(
  "finetune gives %s a head for the classes of the data",
  async (name) => {
    const { manifest, tensors } = readModelFolder(at(name));
    const provenance = { zeroShot: { scores: "softmax" as const, scale: 100, bias: 0 } };
    writeModelFolder(at(`${name}-aligned`), { ...manifest, provenance }, tensors, ["f32"]);
    const command = finetuneCommand().action(() => {});
    command.parse(
      [at(`${name}-aligned`), "-o", at(`${name}-fine`), "--data", at("pictures"), ...TRAINING, "--epochs", "30"],
      {
        from: "user",
      },
    );
    const { history } = await finetune(at(`${name}-aligned`), command.opts<FinetuneOptions>());
    const model = readModelFolder(at(`${name}-fine`));
    expect(model.manifest.head).toEqual({ scores: "softmax" });
    expect(model.manifest.provenance).not.toHaveProperty("zeroShot"); // its embeddings are no longer the text encoder's
    expect(model.manifest.labels.map(({ label }) => label)).toEqual(CLASSES);
    expect(model.tensors.get("head.weight")!.shape).toEqual([3, featureDim(model.manifest)]);
    const losses = history.filter(({ ce }) => ce !== undefined).map(({ ce }) => ce);
    expect(losses[0]).toBeCloseTo(Math.log(3), 1); // every class equally likely
    expect(losses.at(-1)).toBeLessThan(losses[0] - 0.2);
    await expectRuns(model);
  },
);

test("a taught model's rule for unknown pictures is left out where its embeddings change", async () => {
  const { manifest, tensors } = readModelFolder(at("DINOv2-registers"));
  const unknown = { threshold: 0.5, falseRejection: 0.05, n: 15 };
  const means = { dtype: "F32" as const, shape: [3, 32], data: new Float32Array(96).fill(0.5) };
  const taught = { ...manifest, name: "taught", head: { ...manifest.head!, unknown } };
  writeModelFolder(at("taught"), taught, new Map(tensors).set(MEANS, means), ["f32"]);
  await retrained("taught", "taught-trained", "--teacher", at("DINOv2-registers"));
  const trained = readModelFolder(at("taught-trained"));
  expect(trained.manifest.head).toEqual({ scores: "softmax" });
  expect(trained.tensors.has(MEANS)).toBe(false);
});

describe("what makes no sense is refused by name", () => {
  test("ghosts of tokens that have places", async () => {
    await expect(retrained("EVA-02", "none", "--ghost", "--teacher", at("EVA-02"))).rejects.toThrow(/rotary positions/);
    await expect(retrained("BEiT", "none", "--ghost", "--teacher", at("BEiT"))).rejects.toThrow(/relative positions/);
  });

  test("masks of tokens that merge", async () => {
    await expect(searched("merging", "none", "--w-patch", "1e-4")).rejects.toThrow(/merges tokens.*--w-patch 0/);
  });

  test("milliseconds of networks that a profile has no tables of", async () => {
    writeFileSync(at("device.json"), JSON.stringify(deviceProfile(1e-4, 1e-4)));
    const target = ["--latency-ms", "1", "--profile", at("device.json")];
    await searched("merging", "merging-timed");
    await expect(compressed("merging-timed", "none", ...target)).rejects.toThrow(/not for tokens that merge/);
  });

  test("patches of a network that merges", async () => {
    await searched("merging", "merging-budgets");
    const budgets = ["--attn", "0.5", "--mlp", "0.5"];
    await expect(compressed("merging-budgets", "none", ...budgets, "--patch", "0.5")).rejects.toThrow(/give --patch 1/);
    const report = await compressed("merging-budgets", "merging-halves", ...budgets, "--patch", "1");
    expect(report.maxAbsDiff).toBeLessThan(1e-4);
  });

  test("an embedding model that has nobody to learn from", async () => {
    await expect(retrained("CLIP", "none")).rejects.toThrow(/no classifier.*--teacher/s);
  });

  test("a teacher of another space or other scores", async () => {
    const other = ["--teacher", at("DINOv2-embedding")];
    await expect(retrained("CLIP", "none", ...other)).rejects.toThrow(/embeddings have 32 numbers, the model's 10/);
    await expect(retrained("SigLIP", "none", "--teacher", at("BEiT"))).rejects.toThrow(
      /softmax, the model's by sigmoid/,
    );
  });
});

test("a report's attention maps cover every patch of the lists, whatever merged, in models without a class token too", async () => {
  const models = ["merging-EVA", "SigLIP", "CLIP"].map((name) => readModelFolder(at(name)));
  const [looked] = await lookAt(models, [at("pictures", CLASSES[0], "00.png")]);
  looked.forEach(({ best, attention }, k) => {
    const { blocks, labels } = models[k].manifest;
    attention.forEach((map, i) => {
      expect(map).toHaveLength(blocks[i].keepIdx.length);
      expect(map.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 4);
    });
    expect(best && labels.some(({ label }) => label === best.label)).toBe(models[k].manifest.head ? true : undefined);
  });
  expect(tokenCounts(models[0].manifest)[2].entering).toBe(12);
});
