import { beforeAll, describe, expect, test } from "vitest";
import type { Architecture, Manifest, Preprocess } from "../../src/format/model.ts";
import { forward } from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import { readModelFolder, writeModelFolder } from "../../tools/models/folders.ts";
import { random } from "../../tools/shared/random.ts";
import { openBackend } from "../../tools/training/backend.ts";
import { adapted, openTeacher, weightsOnBackend } from "../../tools/training/teacher.ts";
import { expectClose } from "../helpers.ts";
import { randomTensors, tinyArchitecture, workplace } from "./fixtures.ts";

const at = workplace("teacher");
let tf: TF;
beforeAll(async () => {
  ({ tf } = await openBackend("tfjs-node"));
});

function preprocess(crop: [number, number], mean = 0.5, std = 0.25): Preprocess {
  const triple = (v: number): [number, number, number] => [v, v + 0.01, v + 0.02];
  return { resize: crop, crop, interpolation: "bicubic", mean: triple(mean), std: triple(std) };
}

function writeModel(name: string, imageSize: [number, number], classes: number, how = preprocess(imageSize)): string {
  const arch: Architecture = tinyArchitecture({ imageSize });
  const labels = Array.from({ length: classes }, (_, k) => ({ id: `c${k}`, label: `class ${k}` }));
  const draft = { name, license: "none", ...arch, preprocess: how, labels, provenance: {}, metrics: {} };
  writeModelFolder(at(name), draft, randomTensors(arch, classes, 3), ["f32"]);
  return at(name);
}

/** A picture that is a plane in x and y: every linear resampling keeps it, but at the rim. */
function plane([height, width]: [number, number], { mean, std }: Preprocess): Tensor {
  const data: number[] = [];
  for (let c = 0; c < 3; c++)
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++)
        data.push((0.2 * c + (0.4 * (x + 0.5)) / width + (0.1 * (y + 0.5)) / height - mean[c]) / std[c]);
  return tf.tensor4d(data, [1, 3, height, width]);
}

describe("a teacher", () => {
  test("of the student's size and normalisation sees the very pixels", () => {
    const folder = writeModel("equal", [32, 32], 3);
    const model = readModelFolder(folder);
    const rng = random(4);
    const pixels = tf.tensor4d(Float32Array.from({ length: 2 * 3 * 32 * 32 }, rng), [2, 3, 32, 32]);
    const told = openTeacher(tf, folder, model.manifest)!.outputs(pixels).dataSync();
    const own = forward(tf, model.manifest, weightsOnBackend(tf, model), pixels).logits.dataSync();
    expect(told).toEqual(own);
  });

  test.each<[string, [number, number], [number, number]]>([
    ["larger", [24, 16], [32, 40]],
    ["smaller", [48, 32], [24, 16]],
  ])("of a %s image size sees the same crop at its own, in its own normalisation", (_, from, to) => {
    const [student, teacher] = [preprocess(from), preprocess(to, 0.4, 0.2)];
    const seen = adapted(tf, plane(from, student), student, teacher);
    const wanted = plane(to, teacher);
    expect(seen.shape).toEqual([1, 3, ...to]);
    const centre = (x: Tensor) => tf.slice(x, [0, 0, 6, 6], [1, 3, to[0] - 12, to[1] - 12]).dataSync() as Float32Array;
    expectClose(centre(seen), centre(wanted), 1e-5);

    const folder = writeModel(`teacher-${to[0]}`, to, 3, teacher);
    const model = readModelFolder(folder);
    const logits = openTeacher(tf, folder, { ...model.manifest, preprocess: student } as Manifest)!.outputs;
    const own = forward(tf, model.manifest, weightsOnBackend(tf, model), seen).logits;
    expect(logits(plane(from, student)).dataSync()).toEqual(own.dataSync());
  });

  test("of another number of classes is refused with one sentence", () => {
    const student = readModelFolder(writeModel("student", [32, 32], 3)).manifest;
    expect(() => openTeacher(tf, writeModel("other", [32, 32], 5), student)).toThrow(
      /other: has 5 classes, and 3 are needed; both models must know the same classes/,
    );
  });

  test("leaves no tensor behind", () => {
    const folder = writeModel("again", [32, 32], 3);
    const { manifest } = readModelFolder(folder);
    const before = tf.memory().numTensors;
    const teacher = openTeacher(tf, folder, { ...manifest, preprocess: preprocess([16, 16]) } as Manifest)!;
    const pixels = plane([16, 16], manifest.preprocess);
    tf.dispose([pixels, teacher.outputs(pixels)]);
    teacher.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  test("whose classes are in another order gives the student's order", () => {
    const folder = writeModel("turned", [32, 32], 3);
    const { manifest } = readModelFolder(folder);
    const student = { ...manifest, labels: [2, 0, 1].map((k) => manifest.labels[k]) } as Manifest;
    const pixels = tf.tensor4d(Float32Array.from({ length: 3 * 32 * 32 }, random(4)), [1, 3, 32, 32]);
    const [own, turned] = [manifest, student].map((m) => openTeacher(tf, folder, m)!.outputs(pixels).dataSync());
    expect([...turned]).toEqual([2, 0, 1].map((k) => own[k]));
  });

  test("of other classes is refused, as many as they are", () => {
    const folder = writeModel("others", [32, 32], 3);
    const { manifest } = readModelFolder(folder);
    const labels = ["kiwis", "figs", "limes"].map((id) => ({ id, label: id }));
    expect(() => openTeacher(tf, folder, { ...manifest, labels } as Manifest)).toThrow(
      /others: has other classes \("kiwis"/,
    );
  });
});
