/** Outputs → scored classes. */
import { describe, expect, test } from "vitest";
import type { Manifest } from "../../src/format/model.ts";
import { classPicker, type Output } from "../../src/worker/classes.ts";
import { manifestOf } from "../helpers.ts";

const block = { headDims: [4], mlpHidden: 8, keepIdx: [0, 1, 2, 3, 4] };
const sizes = { imageSize: [8, 8] as [number, number], patchSize: 4, embedDim: 4, headDim: 4, layerNormEps: 1e-6 };
const manifest = manifestOf({ ...sizes, prefixTokens: 1, blocks: [block] }, 3);
const embedding: Manifest = { ...manifest, head: undefined, labels: [] };
const output = (logits: number[], features = [3, 4, 0, 0]) => ({
  logits: Float32Array.from(logits),
  features: Float32Array.from(features),
});
const picked = async (of: Output, ...given: Parameters<typeof classPicker>) =>
  (await classPicker(...given))(of).classes;

test("softmax scores sum to 1; a multi-label model's are each class's own probability", async () => {
  const logits = [0, Math.log(3), -1000];
  const softmax = await picked(output(logits), manifest, {});
  expect(softmax.map(({ index }) => index)).toEqual([1, 0, 2]);
  expect(softmax.map(({ score }) => score)).toEqual([expect.closeTo(0.75), expect.closeTo(0.25), 0]);
  const sigmoid = await picked(output(logits), { ...manifest, head: { scores: "sigmoid" } }, {});
  expect(sigmoid.map(({ score }) => score)).toEqual([expect.closeTo(0.75), expect.closeTo(0.5), 0]);
});

test.each([Number.NaN, Number.POSITIVE_INFINITY])("a logit of %s is an error that says what to try", async (bad) => {
  await expect(picked(output([1, bad, 2]), manifest, {})).rejects.toMatchObject({
    code: "unsupported",
    message: expect.stringMatching(new RegExp(`computed ${bad} .*output 1 of 3.*another dtype`)),
  });
});

describe("zero-shot classes", () => {
  const classes = { along: [30, 40, 0, 0], across: new Float32Array([-4, 3, 0, 0]), against: [-3, -4, 0, 0] };

  test("are scored by the cosine, whatever a vector's length, over the temperature", async () => {
    const found = await picked(output([]), embedding, { classes, temperature: 0.5 });
    const [along, across, against] = [Math.exp(2), 1, Math.exp(-2)];
    const total = along + across + against;
    expect(found).toEqual([
      { id: "along", label: "along", index: 0, score: expect.closeTo(along / total) },
      { id: "across", label: "across", index: 1, score: expect.closeTo(across / total) },
      { id: "against", label: "against", index: 2, score: expect.closeTo(against / total) },
    ]);
  });

  test("have CLIP's temperature by default, and take the place of the labels of a model that has some", async () => {
    const near = { one: [3, 4, 0, 0], other: [3, 4, 0.5, 0] }; // cosines 1 and 0.995
    const [one, other] = await picked(output([1, 2, 3]), manifest, { classes: near });
    expect(one.score / other.score).toBeCloseTo(Math.exp(100 * (1 - 5 / Math.sqrt(25.25))), 4);
    const allowed = await picked(output([1, 2, 3]), manifest, { classes: near, allow: ["other"] });
    expect(allowed.map(({ label }) => label)).toEqual(["other"]);
  });

  test("are scored as the model was trained to, where it says so; a temperature takes the place of its scale", async () => {
    const manifest = { ...embedding, provenance: { zeroShot: { scores: "sigmoid", scale: 4, bias: -1 } as const } };
    const scores = async (options: object) =>
      (await picked(output([]), manifest, { classes, ...options })).map(({ score }) => score);
    const sigmoid = (v: number) => expect.closeTo(1 / (1 + Math.exp(-v)), 12);
    expect(await scores({})).toEqual([sigmoid(3), sigmoid(-1), sigmoid(-5)]);
    expect(await scores({ temperature: 0.5 })).toEqual([sigmoid(1), sigmoid(-1), sigmoid(-3)]);
  });

  test.each<[string, object, RegExp]>([
    ["no class", { classes: {} }, /at least one name/],
    ["a vector of another length", { classes: { a: [1, 2] } }, /classes\["a"\] has 2 numbers; .* have 4/],
    ["a vector of zeros", { classes: { a: [0, 0, 0, 0] } }, /classes\["a"\] is no vector/],
    ["NaN in a vector", { classes: { a: [1, Number.NaN, 0, 0] } }, /classes\["a"\] is no vector/],
    [
      "a temperature of 0",
      { classes: { a: [1, 0, 0, 0] }, temperature: 0 },
      /temperature is 0; expected a number above/,
    ],
  ])("%s is a bad option", async (_, options, message) => {
    await expect(picked(output([]), embedding, options)).rejects.toMatchObject({
      code: "bad-option",
      message: expect.stringMatching(message),
    });
  });
});

test("an embedding model says what to call instead", async () => {
  await expect(classPicker(embedding, {})).rejects.toMatchObject({
    code: "unsupported",
    message: expect.stringMatching(/embedding model .*classes: \{ name: vector \}.*embed\(\)/),
  });
});

describe("a taught head", () => {
  const head = {
    labels: ["near", "far"].map((label) => ({ id: label, label })),
    weight: Float32Array.of(0.2, 0.1, 0, 0, 0, 0, 0, 0),
    bias: Float32Array.of(0, 1 - Math.log(3)),
    means: Float32Array.of(30, 40, 0, 0, -4, 3, 0, 0),
    unknown: { threshold: 0.9 } as never,
  };

  test("gives softmax scores of its own classes, also on a network whose own head has one score a class", async () => {
    // The features are 3 and 4: logits of 1 and 1 − ln 3, so scores of 3/4 and 1/4.
    for (const of of [manifest, { ...manifest, head: { scores: "sigmoid" } } as Manifest]) {
      const found = await picked(output([9, 9, 9]), of, { head });
      expect(found).toEqual([
        { id: "near", label: "near", index: 0, score: expect.closeTo(0.75, 6) },
        { id: "far", label: "far", index: 1, score: expect.closeTo(0.25, 6) },
      ]);
    }
  });

  /** The network's own rule, by which everything is unknown. */
  const rule = { means: Float32Array.of(0, 0, 1, 0), unknown: { threshold: 0.99 } as never };
  const isUnknown = async (features: number[], ...given: Parameters<typeof classPicker>) =>
    (await classPicker(...given))(output([1, 2, 3], features)).unknown;

  test("tells unknown pictures by its own means, a network's own head by the network's", async () => {
    expect(await isUnknown([3, 4, 0, 0], manifest, { head }, rule)).toBe(false);
    expect(await isUnknown([0, 0, 5, 1], manifest, { head }, rule)).toBe(true);
    expect(await isUnknown([0, 0, 5, 0.1], manifest, {}, rule)).toBe(false);
    expect(await isUnknown([3, 4, 0, 0], manifest, {}, rule)).toBe(true);
    expect(await isUnknown([3, 4, 0, 0], manifest, {})).toBeUndefined();
  });

  test("a picture exactly at the threshold is known", async () => {
    const exact = { ...head, means: Float32Array.of(3, 4, 0, 0), unknown: { threshold: 1 } as never };
    expect(await isUnknown([3, 4, 0, 0], manifest, { head: exact })).toBe(false);
  });

  test("nothing is unknown among classes that the caller gives", async () => {
    const classes = { one: [0, 0, 0, 1], other: [1, 0, 0, 0] };
    expect(await isUnknown([3, 4, 0, 0], manifest, { classes }, rule)).toBeUndefined();
  });
});
