/** A taught head in a model folder: the network computes what the head gives for the features. */
import { describe, expect, test } from "vitest";
import { countParams, MEANS, type Model, plainArchitecture } from "../../src/format/model.ts";
import { readManifest, readModel } from "../../src/format/read.ts";
import { encodeTensors, manifestJson, writeWeights } from "../../src/format/write.ts";
import type { Taught } from "../../src/protocol.ts";
import { forward } from "../../src/reference/forward.ts";
import { headLogits } from "../../src/reference/scores.ts";
import { readTaught, writeTaught } from "../../src/teach/file.ts";
import { taughtManifest, withHead } from "../../src/teach/folder.ts";
import { teachHead } from "../../src/teach/teach.ts";
import { classPicker } from "../../src/worker/classes.ts";
import { expectClose, manifestOf, randomModel, randomPixels, randomValues } from "../helpers.ts";

const block = (tokens: number) => ({
  headDims: [4, 4],
  mlpHidden: 12,
  keepIdx: Array.from({ length: tokens }, (_, i) => i),
});
const sizes = { imageSize: [8, 8] as [number, number], patchSize: 4, embedDim: 8, headDim: 4, layerNormEps: 1e-6 };
const plain = randomModel({ ...sizes, prefixTokens: 1, blocks: [block(5)] }, 3);
const distilled = randomModel({ ...sizes, prefixTokens: 2, blocks: [block(6)] }, 4);

/** An embedding model: no head, a projection. */
function embedding(): Model {
  const arch = { ...plainArchitecture({ ...sizes, prefixTokens: 1, blocks: [block(5)] }), projection: 6 };
  const model = randomModel(arch, 5);
  const tensors = new Map([...model.tensors].filter(([key]) => !key.startsWith("head.")));
  return { ...model, manifest: { ...manifestOf({ ...arch, head: undefined }), labels: [] }, tensors };
}

/** Classes by the first feature's sign, from the features of noise. */
async function taughtOn(model: Model): Promise<{ taught: Taught; dim: number }> {
  const features = Array.from({ length: 24 }, (_, i) => forward(model, randomPixels(model.manifest, 50 + i)).features);
  const order = [...features].sort((a, b) => a[0] - b[0]);
  return {
    taught: {
      names: ["low", "high"],
      classOf: Int32Array.from(order, (_, i) => (i < 12 ? 0 : 1)),
      embeddings: Float32Array.from(order.flatMap((f) => [...f])),
    },
    dim: features[0].length,
  };
}

describe.each([
  ["a plain network", plain],
  ["a network with a distillation token", distilled],
  ["an embedding model with a projection", embedding()],
])("%s", (_, model) => {
  test.each(["f32", "f16", "int8"] as const)("gives the head's own logits in a folder of %s weights", async (dtype) => {
    const tensors = encodeTensors(model.tensors, dtype);
    const source: Model = { manifest: model.manifest, dtype, tensors };
    const { taught, dim } = await taughtOn(source);
    const { head, info } = await teachHead(taught, dim);
    const manifest = taughtManifest(source.manifest, head, info, { command: "teach" });
    const read = readManifest(JSON.stringify(manifestJson(manifest)), "slimvit.json");
    expect(read.labels).toEqual([
      { id: "low", label: "low" },
      { id: "high", label: "high" },
    ]);
    expect(read.head).toEqual({ scores: "softmax", unknown: info.unknown });
    expect(read.provenance.taught).toEqual(info);
    const saved = readModel(read, dtype, writeWeights(withHead(source, head)), "model");
    expect(saved.tensors.get("head.weight")!.dtype).toBe("F32");
    const pixels = randomPixels(model.manifest, 99);
    const [before, after] = [forward(source, pixels), forward(saved, pixels)];
    expectClose(after.features, before.features, 0);
    expectClose(after.logits, headLogits(head, before.features), 1e-5);
    const rule = { means: head.means, unknown: head.unknown };
    const ofFolder = (await classPicker(read, {}, rule))(after);
    const inPage = (await classPicker(source.manifest, { head }))(before);
    expect(ofFolder.unknown).toBe(inPage.unknown);
    expect(ofFolder.classes.map(({ label }) => label)).toEqual(inPage.classes.map(({ label }) => label));
    expectClose(saved.tensors.get(MEANS)!.data as Float32Array, head.means, 0);
  });
});

test("the means for the rule count as none of the network's parameters", () => {
  const unknown = { threshold: 0.5, falseRejection: 0.05, n: 9 };
  const { manifest } = plain;
  expect(countParams({ ...manifest, head: { scores: "softmax", unknown } }, 5)).toBe(countParams(manifest, 5));
});

test("a head says that a picture is unknown exactly below its threshold", async () => {
  const means = Float32Array.from([1, 0, 0, 1]);
  const rule = (threshold: number) => ({ means, unknown: { threshold, falseRejection: 0, n: 4 } });
  const head = { labels: ["a", "b"].map((id) => ({ id, label: id })), weight: means, bias: new Float32Array(2) };
  const output = { logits: new Float32Array(5), features: Float32Array.from([3, 4]) }; // cosines 0.6 and 0.8
  const picked = async (options: Parameters<typeof classPicker>[1]) =>
    (await classPicker(plain.manifest, options))(output);
  const unknownAt = async (threshold: number) => (await picked({ head: { ...head, ...rule(threshold) } })).unknown;
  expect([await unknownAt(0.79), await unknownAt(0.81)]).toEqual([false, true]);
  expect(await picked({ head: { ...head, ...rule(0.81) }, classes: { x: [1, 0] } })).not.toHaveProperty("unknown"); // the caller's own classes have no such rule
  expect(await picked({})).not.toHaveProperty("unknown");
});

test.each([[{ threshold: "0.5" }], [{ falseRejection: 0.1, n: 3 }], ["0.5"]])(
  "head.unknown %j is no rule",
  (unknown) => {
    const json = { ...manifestJson(plain.manifest), head: { scores: "softmax", unknown } };
    expect(() => readManifest(JSON.stringify(json), "slimvit.json")).toThrow(/slimvit.json: head.unknown/);
  },
);

describe("taught.safetensors", () => {
  const taught: Taught = {
    names: ["a", "b"],
    classOf: Int32Array.from([0, 1, 1, 0]),
    embeddings: randomValues(12, 8),
  };

  test("is read as it was written", () => {
    expect(readTaught(writeTaught(taught), taught.names, 3, "taught")).toEqual(taught);
  });

  test.each<[string, Taught, number]>([
    ["of another model", taught, 4],
    ["with a class too many", { ...taught, classOf: Int32Array.from([0, 1, 2, 0]) }, 3],
    ["with a class below 0", { ...taught, classOf: Int32Array.from([0, 1, -1, 0]) }, 3],
    ["with a class of one picture", { ...taught, classOf: Int32Array.from([0, 1, 0, 0]) }, 3],
    ["with NaN", { ...taught, embeddings: taught.embeddings.map((v, i) => (i ? v : Number.NaN)) }, 3],
  ])("%s is refused", (_, damaged, dim) => {
    expect(() => readTaught(writeTaught(damaged), ["a", "b"], dim, "taught")).toThrow(/^taught: /);
  });

  test("without classes is refused", () => {
    expect(() => readTaught(writeWeights(plain.tensors), ["a", "b"], 3, "taught")).toThrow(/has no embeddings/);
  });
});
