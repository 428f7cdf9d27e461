/** slimvit set: what it takes from the models, what it refuses, and that what it writes is whole. */
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, expect, test } from "vitest";
import { countMacs, countParams } from "../../src/format/model.ts";
import { type ModelSet, readSet } from "../../src/format/set.ts";
import { manifestJson } from "../../src/format/write.ts";
import { manifestText, readManifestFile } from "../../tools/models/folders.ts";
import type { AccuracyRecord } from "../../tools/models/metrics.ts";
import { makeSet } from "../../tools/models/set.ts";
import { makeDense, slimvit, slimvitJson, workplace } from "./fixtures.ts";

const at = workplace("set");

type Record = Partial<AccuracyRecord>;

/** A copy of `from` with other records of accuracy, and what else `change` does to its manifest. */
function copy(
  from: string,
  name: string,
  records: Record[],
  change: (manifest: ReturnType<typeof readManifestFile>) => void = () => {},
): string {
  cpSync(at(from), at(name), { recursive: true });
  const manifest = readManifestFile(at(name));
  const whole = { data: "fruit", split: "test", top1: 0.5, top5: 1, n: 30, engine: "simd", dtype: "f32" };
  manifest.metrics = { accuracy: records.map((one) => ({ ...whole, ...one })) };
  change(manifest);
  writeFileSync(at(name, "slimvit.json"), manifestText(manifestJson(manifest)));
  return at(name);
}

beforeAll(async () => {
  await makeDense(at, 4);
  slimvitJson("export", at("dense"), "-o", at("ready"), "--dtype", "f32,int8");
});

test("eval --record, then set: the command line writes members, costs and accuracy, and copies the folders", () => {
  const data = ["--data", at("pictures"), "--record", "--engine", "reference", "--split", "all"];
  const [{ top1, n }] = ["dense", "ready"].map((name) => slimvitJson<AccuracyRecord>("eval", at(name), ...data));
  const { status, stderr } = slimvit("set", at("dense"), at("ready"), "-o", at("out"));
  expect([status, stderr]).toEqual([0, expect.stringContaining("set: 2 members, accuracy on 12 pictures of pictures")]);
  expect(stderr).toMatch(/set: ready: .*; never taken: dense is as accurate for no more MACs/);
  const set = readSet(readFileSync(at("out", "set.json"), "utf8"), "set.json");
  const manifest = readManifestFile(at("dense"));
  const costs = { macs: countMacs(manifest, 3), params: countParams(manifest, 3) };
  const accuracy = { top1, n, data: "pictures", split: "all", engine: "reference", dtype: "f32" };
  const bytesOf = (name: string) =>
    Object.fromEntries(readManifestFile(at(name)).weights.map(({ dtype, bytes }) => [dtype, bytes]));
  expect(set).toEqual({
    format: "slimvit-set/1",
    name: "out",
    members: [
      { folder: "dense", ...costs, bytes: bytesOf("dense"), accuracy },
      { folder: "ready", ...costs, bytes: bytesOf("ready"), accuracy },
    ],
  });
  expect(Object.keys(set.members[1].bytes)).toEqual(["f32", "int8"]);
  for (const name of ["slimvit.json", "card.md", "model.f32.safetensors", "model.int8.safetensors.zz"])
    expect(readFileSync(at("out", "ready", name))).toEqual(readFileSync(at("ready", name)));

  const again = slimvit("set", at("dense"), "-o", at("out"));
  expect([again.status, again.stderr]).toEqual([2, expect.stringMatching(/out: exists already/)]);
  const forced = slimvitJson<ModelSet>("set", at("dense"), "-o", at("out"), "--force", "--name", "one");
  expect([forced.name, forced.members.length, readdirSync(at("out")).sort()]).toEqual([
    "one",
    1,
    ["dense", "set.json"],
  ]);
});

test("accuracy is that on the same pictures: the most of them, by the same engine and dtype where there is such", () => {
  const few = { data: "few", n: 8, top1: 0.9 };
  const a = copy("ready", "a", [few, { engine: "onnx-wasm", top1: 0.6 }, { top1: 0.61 }, { data: "only-here", n: 99 }]);
  const b = copy("ready", "b", [{ top1: 0.71 }, few, { engine: "reference", top1: 0.72 }]);
  const top1 = (options: object) =>
    makeSet([a, b], { out: at("compared"), force: true, ...options }).members.map(({ accuracy }) => accuracy);
  expect(top1({})).toEqual([
    { data: "fruit", split: "test", n: 30, engine: "simd", dtype: "f32", top1: 0.61 },
    { data: "fruit", split: "test", n: 30, engine: "simd", dtype: "f32", top1: 0.71 },
  ]);
  expect(top1({ data: "few" }).map((accuracy) => [accuracy.data, accuracy.top1])).toEqual([
    ["few", 0.9],
    ["few", 0.9],
  ]);
  const c = copy("ready", "c", [{ engine: "reference", top1: 0.8 }]);
  expect(makeSet([a, c], { out: at("mixed") }).members.map(({ accuracy }) => accuracy.engine)).toEqual([
    "simd",
    "reference",
  ]);
});

test("models that cannot be a set are named in one sentence, and nothing is written", () => {
  const good = copy("ready", "good", [{}]);
  const relabelled = copy("ready", "relabelled", [{}], ({ labels }) => void (labels[1].label = "pears"));
  const empty = copy("ready", "empty", [{}], (manifest) => void (manifest.weights = []));
  const unmeasured = copy("ready", "unmeasured", []);
  const elsewhere = copy("ready", "elsewhere", [{ n: 31 }]);
  const damaged = copy("ready", "damaged", [{}]);
  writeFileSync(at("damaged", "model.int8.safetensors.zz"), "damaged");
  const lost = copy("ready", "lost", [{}]);
  rmSync(at("lost", "model.int8.safetensors.zz"));
  const odd = copy("ready", "odd name", [{}]);
  const told = (models: string[], options: object = {}) => {
    try {
      makeSet(models, { out: at("never"), ...options });
      return "none";
    } catch (error) {
      const { code, message } = error as { code: string; message: string };
      return `${code} ${message}`;
    }
  };
  expect(told([good, relabelled])).toMatch(/^bad-model .*relabelled: has other labels than .*good; the members/);
  expect(told([good, empty])).toMatch(/^bad-model .*empty: lists no weights; make some with "slimvit export"/);
  expect(told([good, unmeasured])).toMatch(
    /^bad-model .*unmeasured: has no accuracy in its manifest; run "slimvit eval MODEL --data D --record" on each/,
  );
  expect(told([good], { data: "vegetables", split: "val" })).toMatch(
    /good: has no accuracy on vegetables, split val in its manifest; run "slimvit eval MODEL --data vegetables --split val --record"/,
  );
  expect(told([good, elsewhere])).toMatch(/good, .*elsewhere: were not all measured on the same pictures/);
  expect(told([good, damaged])).toMatch(
    /^bad-model .*damaged.model\.int8\.safetensors\.zz: has 7 bytes, slimvit\.json says/,
  );
  expect(told([good, lost])).toMatch(/^bad-model .*lost.model\.int8\.safetensors\.zz: is missing/);
  expect(told([good, good])).toMatch(/^bad-model .*member "good" is there twice/);
  expect(told([odd])).toMatch(/^bad-option .*odd name: has a name that a set cannot hold/);
  expect(told([good], { inPlace: true })).toMatch(/^bad-option .*good: does not lie below .*never; without --in-place/);
  expect(told([at("nowhere")])).toMatch(/^bad-model .*nowhere: no such folder/);
  expect(existsSync(at("never"))).toBe(false);
  expect(readdirSync(at()).filter((name) => name.includes(".part-"))).toEqual([]);
});

test("--in-place writes set.json alone, beside folders that lie there", () => {
  copy("ready", "home/a", [{}]);
  copy("ready", "home/more/b", [{ top1: 0.6 }]);
  const models = [at("home", "more", "b"), at("home", "a")];
  const set = makeSet(models, { out: at("home"), inPlace: true });
  expect(set.members.map(({ folder }) => folder)).toEqual(["more/b", "a"]);
  expect(readdirSync(at("home")).sort()).toEqual(["a", "more", "set.json"]);
  expect(() => makeSet(models, { out: at("home"), inPlace: true })).toThrow(/set\.json: exists already; give --force/);
  makeSet(models.slice(1), { out: at("home"), inPlace: true, force: true });
  expect(readSet(readFileSync(at("home", "set.json"), "utf8"), "set.json").members).toHaveLength(1);
});

test("models/set.json says what the shipped models' manifests say", () => {
  const models = fileURLToPath(new URL("../../models", import.meta.url));
  const path = join(models, "set.json");
  const { members } = readSet(readFileSync(path, "utf8"), path);
  for (const { folder, macs, params, bytes, accuracy } of members) {
    const { labels, weights, metrics, ...arch } = readManifestFile(join(models, folder));
    expect([macs, params]).toEqual([countMacs(arch, labels.length), countParams(arch, labels.length)]);
    expect(bytes).toEqual(Object.fromEntries(weights.map(({ dtype, bytes }) => [dtype, bytes])));
    expect(metrics.accuracy).toContainEqual(expect.objectContaining(accuracy));
  }
  expect(members.length).toBeGreaterThan(1);
});
