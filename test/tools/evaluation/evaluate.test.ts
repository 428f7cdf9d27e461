/** What eval and run look at, what they record, and what they compare, with models whose answers are known. */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import type { Label, WeightsDtype } from "../../../src/format/model.ts";
import { digestData } from "../../../tools/data/digest.ts";
import { agreeWith, type EvalOptions, evaluate } from "../../../tools/evaluation/evaluate.ts";
import { type RunReport, runFiles } from "../../../tools/evaluation/run.ts";
import { warnOfTrainingPictures } from "../../../tools/evaluation/trainedOn.ts";
import { readManifestFile, writeModelFolder } from "../../../tools/models/folders.ts";
import { type Metrics, recordMetrics } from "../../../tools/models/metrics.ts";
import { manifestOf } from "../../helpers.ts";
import { randomTensors, tinyArchitecture, workplace, writePictures } from "../fixtures.ts";

const at = workplace("evaluate");
const NAMES = ["a", "b", "c"];
const labelsOf = (names: string[]): Label[] => names.map((id) => ({ id, label: `class ${id}` }));

interface Made {
  labels?: string[];
  dtypes?: WeightsDtype[];
  /** the head's rows and biases in another order */
  order?: number[];
  provenance?: Record<string, unknown>;
}

/** A model in at(name). @param bias logits of the classes, whatever the picture; without one the picture decides */
function write(name: string, bias?: number[], { labels = NAMES, dtypes = ["f32"], order, provenance = {} }: Made = {}) {
  const arch = tinyArchitecture();
  const tensors = randomTensors(arch, labels.length, 1);
  const [weights, biases] = ["weight", "bias"].map((part) => tensors.get(`head.${part}`)!.data as Float32Array);
  if (bias) {
    weights.fill(0);
    biases.set(bias);
  }
  const [rows, own] = [weights.slice(), biases.slice()];
  order?.forEach((from, to) => {
    weights.set(rows.subarray(16 * from, 16 * (from + 1)), 16 * to);
    biases[to] = own[from];
  });
  const manifest = { ...manifestOf(arch, labels.length), name, labels: labelsOf(labels), provenance };
  writeModelFolder(at(name), manifest, tensors, dtypes, {}, true);
  return at(name);
}

const all = (options: Partial<EvalOptions> = {}): EvalOptions => ({
  ...{ data: [at("pictures")], split: "all", engine: "reference", threads: 1 },
  ...options,
});

let said = "";
beforeAll(() => writePictures(at("pictures"), 2, NAMES));
beforeEach(() => {
  said = "";
  vi.spyOn(process.stderr, "write").mockImplementation((text) => {
    said += text;
    return true;
  });
});

describe("eval", () => {
  test("with a limit sees pictures of every class", async () => {
    expect(await evaluate(write("first", [9, 1, 1]), all({ limit: 3 }))).toMatchObject({ n: 3, top1: 1 / 3 });
  });

  test("leaves out a picture that cannot be read, and says which", async () => {
    cpSync(at("pictures"), at("damaged"), { recursive: true });
    writeFileSync(at("damaged", "a", "01.png"), "no picture");
    const data = [at("damaged")];
    expect(await evaluate(write("first", [9, 1, 1]), all({ data }))).toMatchObject({ n: 5, top1: 1 / 5 });
    expect(said).toMatch(/skipped: .*damaged:a\/01\.png: is no picture that can be read/);
  });

  test("compares with the most exact weights of the other model, whatever this one's are", async () => {
    const both = write("both", undefined, { dtypes: ["int8", "f32"] });
    const { dtype, against } = await evaluate(both, all({ dtype: "int8", against: both }));
    expect([dtype, against!.dtype]).toEqual(["int8", "f32"]);
  });

  test("records a figure for each data set, split, engine and dtype, and replaces the one of the same", async () => {
    const model = write("recorded", [9, 1, 1], { dtypes: ["f32", "f16"] });
    const ms = { msMedian: 3, msP10: 2, msP90: 4 };
    const latency = [{ engine: "simd", dtype: "f32", threads: 1, ...ms, device: "a machine", browser: "a browser" }];
    recordMetrics(model, { latency });
    cpSync(at("pictures"), at("more"), { recursive: true });
    const record = (options: Partial<EvalOptions>) => evaluate(model, all({ dtype: "f32", ...options, record: true }));
    await record({});
    await record({ limit: 3 }); // the same, measured again
    await record({ dtype: "f16" });
    await record({ data: [at("more")] });
    await record({ data: [at("pictures"), at("more")] });
    await record({ engine: "simd" });
    await record({ data: [at("splits")], split: "train" });
    await record({ data: [at("splits")], split: "val" });
    const { metrics } = readManifestFile(model);
    const { accuracy } = metrics as Metrics;
    expect(accuracy!.map(({ data, split, engine, dtype, n }) => [data, split, engine, dtype, n])).toEqual([
      ["pictures", "all", "reference", "f32", 3],
      ["pictures", "all", "reference", "f16", 6],
      ["more", "all", "reference", "f32", 6],
      ["pictures + more", "all", "reference", "f32", 12],
      ["pictures", "all", "simd", "f32", 6],
      ["splits", "train", "reference", "f32", 3],
      ["splits", "val", "reference", "f32", 3],
    ]);
    expect(metrics.latency).toEqual(latency);
    expect(readFileSync(at("recorded", "card.md"), "utf8")).toContain("| pictures + more | all | reference | f32 |");
  });
  beforeAll(() => {
    for (const [split, k] of [
      ["train", "00"],
      ["val", "01"],
    ])
      for (const name of NAMES) {
        mkdirSync(at("splits", split, name), { recursive: true });
        cpSync(at("pictures", name, `${k}.png`), at("splits", split, name, `${k}.png`));
      }
  });

  test("--unlabelled matches the classes of two models by their names", async () => {
    const one = write("one");
    const turned = write("turned", undefined, { labels: ["c", "a", "b"], order: [2, 0, 1] });
    const report = await agreeWith(one, all({ against: turned, unlabelled: true, split: undefined }));
    expect(report).toMatchObject({ n: 6, agreement: 1 });
    expect(report.divergence).toBeCloseTo(0, 9);
    const renamed = write("renamed", undefined, { labels: ["c", "a", "b"] });
    expect((await agreeWith(one, all({ against: renamed, unlabelled: true }))).divergence).toBeGreaterThan(0.01);
  });
});

describe("the warning of pictures that the model was trained on", () => {
  const warned = async (trained: string | undefined, measured: string, data = "pictures") => {
    const { sha256 } = await digestData(at("pictures"));
    const steps = [{ command: "retrain", dataSha256: [sha256], ...(trained && { split: trained }) }];
    await warnOfTrainingPictures(
      write("trained", undefined, { provenance: { steps } }),
      [at(data)],
      measured as EvalOptions["split"] & string,
    );
    return said.includes("warning: the model was trained on pictures of this split");
  };

  test.each<[string, string, boolean]>([
    ["train", "train", true],
    ["all", "test", true],
    ["train", "all", true],
    ["train", "test", false],
    ["train", "val", false],
  ])("trained on %s, measured on %s: %s", async (trained, measured, expected) => {
    expect(await warned(trained, measured)).toBe(expected);
  });

  test("does not come for other pictures", async () => {
    mkdirSync(at("others", "a"), { recursive: true });
    cpSync(at("pictures", "b", "00.png"), at("others", "a", "00.png"));
    expect(await warned("all", "all", "others")).toBe(false);
  });
});

describe("run", () => {
  test("gives the files of a folder in the order of their paths, and as many classes as are asked for", async () => {
    const reports = await runFiles(write("scored", [1, 3, 2]), [at("pictures")], { engine: "reference", topK: 2 });
    expect(reports.map(({ file }) => file)).toEqual(
      NAMES.flatMap((name) => ["00.png", "01.png"].map((file) => at("pictures", name, file))),
    );
    const total = Math.exp(1) + Math.exp(3) + Math.exp(2);
    for (const { classes } of reports as RunReport[])
      expect(classes).toEqual([
        { id: "b", label: "class b", index: 1, score: expect.closeTo(Math.exp(3) / total, 6) },
        { id: "c", label: "class c", index: 2, score: expect.closeTo(Math.exp(2) / total, 6) },
      ]);
  });

  test("prefers the most exact weights, unless others are asked for", async () => {
    const model = write("exact", undefined, { dtypes: ["int8", "f16", "f32"] });
    const logits = async (dtype?: WeightsDtype) => {
      const [report] = await runFiles(model, [at("pictures", "a", "00.png")], { engine: "reference", dtype, topK: 1 });
      return (report as RunReport).logits;
    };
    expect(await logits()).toEqual(await logits("f32"));
    expect(await logits("f16")).not.toEqual(await logits("f32"));
    expect(await logits("int8")).not.toEqual(await logits("f16"));
  });
});
