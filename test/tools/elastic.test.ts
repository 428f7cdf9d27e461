import { existsSync, readFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { countMacs, type Manifest } from "../../src/format/model.ts";
import { readManifest } from "../../src/format/read.ts";
import { forward } from "../../src/reference/forward.ts";
import { type ElasticReport, elastic } from "../../tools/elastic/elastic.ts";
import { evaluate } from "../../tools/evaluation/evaluate.ts";
import { readManifestFile, readModelFolder, writeModelFolder } from "../../tools/models/folders.ts";
import { inspect, inspectTable } from "../../tools/models/inspect.ts";
import { CLASSES, expectClose, manifestOf, randomPixels } from "../helpers.ts";
import { makeDense, randomTensors, tinyArchitecture, workplace } from "./fixtures.ts";

const at = workplace("elastic");
const BUDGETS = [1, 0.7, 0.45];

let made: ElasticReport;
let measured: ElasticReport;
let manifest: Manifest;
beforeAll(async () => {
  await makeDense(at, 6);
  const options = { budgets: BUDGETS, sizes: [32, 24, 16], dtype: ["f32", "int8"] as ("f32" | "int8")[] };
  made = await elastic(at("dense"), { ...options, out: at("made") });
  measured = await elastic(at("dense"), { ...options, out: at("measured"), data: [at("pictures")], split: "val" });
  manifest = readManifest(readFileSync(at("made", "slimvit.json"), "utf8"), "slimvit.json");
}, 120_000);

describe("slimvit elastic", () => {
  test("makes a variant for each budget, each within it", () => {
    expect(made.variants).toHaveLength(BUDGETS.length);
    made.variants.forEach(({ macsShare }, i) => {
      expect(macsShare).toBeLessThanOrEqual(BUDGETS[i]);
      expect(macsShare).toBeGreaterThan(BUDGETS[i] / 2); // of so few units and patches, steps are large;
    });
    expect(manifest.variants.map(({ macs }) => macs)).toEqual(made.variants.map(({ macs }) => macs));
  });

  test("the largest computes what the model computed, though its channels and units lie in another order", () => {
    const [whole, largest] = [readModelFolder(at("dense")), readModelFolder(at("made"), "f32")];
    const pixels = randomPixels(whole.manifest, 1);
    expectClose(forward(largest, pixels).logits, forward(whole, pixels).logits, 1e-4);
  });

  test("MODEL#NAME is that variant, for every command that reads a folder", () => {
    for (const { name, macs, imageSize } of made.variants) {
      const source = `${at("made")}#${name}`;
      const { manifest: own, tensors } = readModelFolder(source, "int8");
      expect(own).toMatchObject({ variant: name, imageSize });
      expect(countMacs(own, own.labels.length)).toBe(macs);
      expect(tensors.get("pos_embed")!.shape[1]).toBe((imageSize[0] / 8) ** 2 + 1);
      expect(inspect(source).inspection).toMatchObject({ macs });
    }
    expect(() => readManifestFile(`${at("made")}#huge`)).toThrow(/no variant "huge"; expected one of/);
    expect(() => readManifestFile(`${at("nowhere")}#huge`)).toThrow(/nowhere: no such folder/);
  });

  test("inspect lists the variants with the bytes that each takes, and a line for each among several models", () => {
    const { text } = inspect(at("made"));
    const { weights } = readManifestFile(at("made"));
    const smallest = weights.find(({ dtype }) => dtype === "int8")!;
    expect(text).toContain(` ${(smallest.bytes / 1e6).toFixed(2)} MB`);
    expect(made.variants.length).toBeGreaterThan(1);
    for (const { name } of made.variants) {
      expect(text).toMatch(new RegExp(`^${name} .* [\\d.]+ MB `, "m"));
      expect(inspectTable([at("made"), at("dense")])).toContain(`${at("made")}#${name} `);
      const alone = inspect(`${at("made")}#${name}`);
      expect(alone.text).not.toMatch(/^variant /m);
      const [own] = text.match(new RegExp(`(?<=^${name} .*)[\\d.]+ MB`, "m"))!;
      expect(alone.text).toContain(`int8: ${own}`);
      const count = manifest.variants.find((one) => one.name === name)!.slabs;
      const prefix = smallest.slabs!.slice(0, count).reduce((sum, { bytes }) => sum + bytes, 0);
      expect(alone.inspection.sizeBytes).toBe(prefix);
    }
  });

  test("with pictures each variant's accuracy is in its own metrics", async () => {
    const written = readManifestFile(at("measured"));
    for (const [i, { name, metrics }] of written.variants.entries()) {
      const entries = metrics.accuracy as { dtype: string; top1: number }[];
      expect(entries.map(({ dtype }) => dtype)).toEqual(["f32", "int8"]);
      expect(entries[1].top1).toBe(measured.variants[i].top1);
      const options = { data: [at("pictures")], split: "val", engine: "reference", dtype: "f32", threads: 1 } as const;
      const again = await evaluate(`${at("measured")}#${name}`, { ...options, data: [...options.data] });
      expect(again.n).toBeGreaterThan(0);
    }
  });

  test("variants of almost the same cost have names of their own", async () => {
    const arch = tinyArchitecture({ imageSize: [96, 96] });
    const { weights: _, variants: __, variant: ___, ...draft } = manifestOf(arch);
    writeModelFolder(at("wide"), draft, randomTensors(arch, CLASSES, 1), ["f32"]);
    const options = { budgets: [0.704, 0.7, 0.696], sizes: [96], dtype: ["f32" as const], out: at("near") };
    const { variants } = await elastic(at("wide"), options);
    expect(new Set(variants.map(({ macsShare }) => Math.round(100 * macsShare))).size).toBeLessThan(variants.length);
    for (const { name, macsShare } of variants) expect(name).toBe(`macs-${(100 * macsShare).toFixed(1)}`);
  });

  test("one variant of a folder is a single network: without budgets it is refused, and the others are not written", async () => {
    const source = `${at("made")}#${made.variants[1].name}`;
    await expect(elastic(source, { dtype: ["f16"], out: at("single") })).rejects.toMatchObject({
      code: "bad-option",
      message: expect.stringContaining(`${source}: is a single network. Give --budgets`),
    });
    expect(existsSync(at("single"))).toBe(false);
  });

  test("a budget that nothing reaches is refused", async () => {
    const wanted = { out: at("none"), budgets: [0.01], sizes: [32], dtype: ["f32" as const] };
    await expect(elastic(at("dense"), wanted)).rejects.toMatchObject({
      code: "bad-option",
      message: /1.0 %.*cannot be reached/,
    });
  });
});
