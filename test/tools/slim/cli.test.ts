import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { readManifestFile } from "../../../tools/models/folders.ts";
import type { Outcome } from "../../../tools/slim/outcome.ts";
import {
  BIN,
  CLASSES,
  makeDense,
  randomTensors,
  slimvit,
  slimvitJson,
  tinyArchitecture,
  workplace,
  writeCheckpoint,
  writePictures,
} from "../fixtures.ts";

const at = workplace("slim-itself");
const search = (out: string, ...more: string[]) =>
  ["slim", at("dense"), "--data", at("pictures"), "-o", at(out), "--train", "no", ...more] as const;

let found: Outcome;

beforeAll(async () => {
  await makeDense(at, 15);
  await writePictures(at("renamed"), 10, ["apples", "figs", "limes"]);
  found = await slimvitJson<Outcome>(...search("mine", "--lose-at-most", "6"));
});

describe("slimvit slim MODEL", () => {
  test("finds a smaller model that keeps the target, and compares it with the dense one", () => {
    expect(found.slim.macsShare).toBeLessThan(0.9);
    expect(-100 * found.val.difference).toBeLessThanOrEqual(6);
    expect(found.val.n).toBe(9);
    expect(found.test!.n).toBe(9);
    expect(found.frontier.filter(({ isTaken }) => isTaken)).toHaveLength(1);
  });

  test("writes f16 and int8, the accuracy of both, and a page that opens with the verdict", () => {
    const manifest = readManifestFile(at("mine"));
    expect(manifest.weights.map(({ dtype }) => dtype)).toEqual(["f16", "int8"]);
    const accuracy = manifest.metrics.accuracy as { split: string; dtype: string; top1: number }[];
    expect(new Set(accuracy.filter(({ split }) => split === "val").map(({ dtype }) => dtype))).toEqual(
      new Set(["f16", "int8"]),
    );
    const page = readFileSync(at("mine", "report.html"), "utf8");
    const body = page.slice(page.indexOf("<h1>"));
    expect(body).toMatch(/<h1>mine<\/h1>\s*<p><strong>mine: [\d.]+ % of the MACs/);
    for (const heading of [
      "The frontier",
      "Class by class",
      "Classes that are mistaken for each other",
      "Pictures that the model gets wrong",
    ])
      expect(body).toContain(`<h2>${heading}`);
    expect(body).toContain("data:image/jpeg;base64,");
    expect(JSON.stringify(manifest)).not.toContain(at()); // no path of this machine
    expect(body).not.toContain(at());
  });

  test("what it says of val is what eval measures", async () => {
    const options = ["--data", at("pictures"), "--split", "val", "--engine", "simd", "--dtype", found.slim.dtype];
    const { top1 } = await slimvitJson<{ top1: number }>("eval", at("mine"), ...options);
    expect(top1).toBeCloseTo(found.slim.top1, 9);
  });

  test("the same command again says that all is done, and makes nothing", async () => {
    const before = statSync(at("mine", "slimvit.json")).mtimeMs;
    const { status, stderr } = await slimvit(...search("mine", "--lose-at-most", "6"));
    expect(status).toBe(0);
    expect(stderr).toMatch(/slim: this model is done already/);
    expect(stderr).toMatch(/mine: [\d.]+ % of the MACs/);
    expect(statSync(at("mine", "slimvit.json")).mtimeMs).toBe(before);
  });

  test("points that were measured are not measured again", async () => {
    rmSync(at("mine"), { recursive: true });
    const before = readdirSync(at("mine.stages", "points")).length;
    const { status, stderr } = await slimvit(...search("mine", "--lose-at-most", "6"));
    expect(status).toBe(0);
    expect(stderr).toMatch(/slim: without training: 0 measurements/);
    expect(stderr).not.toMatch(/compensation:| on val: \d+×/);
    expect(readdirSync(at("mine.stages", "points"))).toHaveLength(before);
  });

  test("stopped by Ctrl-C it says how to go on, and goes on", async () => {
    const args = search("stopped", "--macs", "0.3");
    const child = spawn(process.execPath, [BIN, ...args], { stdio: ["ignore", "ignore", "pipe"] });
    let stderr = "";
    child.stderr.on("data", (chunk) => (stderr += chunk));
    const poll = setInterval(() => {
      const points = at("stopped.stages", "points");
      if (!existsSync(points) || readdirSync(points).length < 3) return;
      clearInterval(poll);
      child.kill("SIGINT");
    }, 5);
    const status = await new Promise((resolve) => child.on("exit", resolve));
    expect(stderr).toMatch(
      /slim: stopped; .*stopped\.stages has what was measured\. The same command continues:\n {2}slimvit slim/,
    );
    expect(status).toBe(130);
    expect(existsSync(at("stopped"))).toBe(false);
    const resumed = await slimvit(...args, "--json");
    expect(resumed.stderr).toMatch(/slim: (no point|[\d.]+ points) (lost|gained) on val: \d+×\d+ px/);
    expect((JSON.parse(resumed.stdout) as Outcome).slim.macsShare).toBeLessThanOrEqual(0.3);
  });

  test("--elastic writes the models beside the one that was taken as variants of one folder", async () => {
    const outcome = await slimvitJson<Outcome>(...search("several", "--lose-at-most", "6", "--elastic"));
    const { variants } = readManifestFile(at("several"));
    const shares = variants.map(({ macs }) => macs / outcome.dense.macs);
    expect(variants.length).toBeGreaterThan(1);
    expect(shares).toEqual([...shares].sort((a, b) => b - a));
    const taken = variants.find(({ macs }) => macs === outcome.slim.macs)!;
    const options = ["--data", at("pictures"), "--split", "val", "--engine", "simd", "--dtype", outcome.slim.dtype];
    type Evaluated = { top1: number; against: { name: string } };
    const against = ["--against", `${at("several")}#${variants.at(-1)!.name}`];
    const report = await slimvitJson<Evaluated>("eval", `${at("several")}#${taken.name}`, ...options, ...against);
    expect(report.against.name).toBe(`several#${variants.at(-1)!.name}`);
    const { top1 } = report;
    expect(top1).toBeCloseTo(outcome.slim.top1, 9);
  });

  test("keeps a target of bytes", async () => {
    const bytes = 12_200; // of 12.5 kB
    const outcome = await slimvitJson<Outcome>(...search("short", "--bytes", String(bytes)));
    expect(outcome.slim.bytes).toBeLessThanOrEqual(bytes);
    expect(statSync(at("short", "model.int8.safetensors.zz")).size).toBe(outcome.slim.bytes);
  });

  test("unlabelled, it stays close to the model whatever the classes are called", async () => {
    const args = ["--data", at("renamed"), "-o", at("close"), "--unlabelled", "--lose-at-most", "20", "--train", "no"];
    const outcome = await slimvitJson<Outcome>("slim", at("dense"), ...args);
    expect(outcome.val.dense).toBe(1);
    expect(outcome.val.slim).toBeGreaterThanOrEqual(0.8);
    expect(outcome.slim.macsShare).toBeLessThan(1);
  });

  test("trains a head for the data's classes, then smaller models, in the time that is given", async () => {
    const args = ["--data", at("renamed"), "-o", at("own"), "--lose-at-most", "20", "--train", "5m"];
    const outcome = await slimvitJson<Outcome>("slim", at("dense"), ...args);
    expect(readManifestFile(at("own")).labels.map(({ label }) => label)).toEqual(["apples", "figs", "limes"]);
    expect(outcome.notes.join("\n")).toMatch(/the dense model was finetuned for \d+ epochs on 18 pictures/);
    expect(-100 * outcome.val.difference).toBeLessThanOrEqual(20);
    expect(outcome.notes.join("\n")).toMatch(
      /trained \d+×\d+ px: .* (lost|gained) before training, .* (lost|gained) after/,
    );
    const [finetuned] = readdirSync(at("own.stages")).filter((name) => name.startsWith("finetune"));
    const { steps } = readManifestFile(join(at("own.stages"), finetuned)).provenance as {
      steps: { command: string }[];
    };
    expect(steps.at(-1)).toMatchObject({ command: "finetune", keepBest: true });
  });
});

test("a network that is deep enough is trained with patches that merge, and again where most of the time is left", async () => {
  const [block] = tinyArchitecture({ imageSize: [64, 64] }).blocks;
  const arch = tinyArchitecture({ imageSize: [64, 64], blocks: Array(12).fill(block) });
  writeCheckpoint(at("deep.safetensors"), randomTensors(arch, CLASSES.length, 2));
  await slimvitJson("import", at("deep.safetensors"), "-o", at("deep"), "--heads", "2", "--labels", at("labels.tsv"));
  await writePictures(at("few"), 5); // 9 train, 3 val and 3 test pictures
  const args = ["--data", at("few"), "-o", at("deeper"), "--macs", "0.5", "--train", "1m"];
  const outcome = await slimvitJson<Outcome>("slim", at("deep"), ...args);
  expect(outcome.notes.join("\n")).toMatch(/trained \d+×\d+ px, patches merged to \d+ % of the MACs: /);
  const [retrained] = readdirSync(at("deeper.stages")).filter((name) => name.startsWith("retrain"));
  const { blocks } = readManifestFile(join(at("deeper.stages"), retrained));
  expect(blocks.some(({ merge }) => merge > 0)).toBe(true);
  expect(outcome.slim.macsShare).toBeLessThanOrEqual(0.5);

  // As if the machine had been too slow for more than two epochs when the training was planned.
  const stages = at("deeper.stages");
  const [[key, plan]] = Object.entries<object>(JSON.parse(readFileSync(join(stages, "plans.json"), "utf8")));
  writeFileSync(join(stages, "plans.json"), JSON.stringify({ [key]: { ...plan, options: { epochs: 2, batch: 4 } } }));
  for (const name of readdirSync(stages))
    if (/^(retrain|clock)-/.test(name)) rmSync(join(stages, name), { recursive: true });
  expect((await slimvit("slim", at("deep"), ...args, "--force")).stderr).toContain(
    "are left, so the result is trained again",
  );
  const rounds = readdirSync(stages).filter((name) => name.startsWith("retrain-") && !name.includes("."));
  const epochsOf = (name: string) =>
    (readManifestFile(join(stages, name)).provenance as { steps: { epochs: number }[] }).steps.at(-1)!.epochs;
  expect(epochsOf(retrained)).toBe(2);
  expect(rounds).toContain(`${retrained}-2`);
  expect(rounds.map(epochsOf).reduce((a, b) => a + b)).toBeLessThanOrEqual(80);
});

test("MACs that no model has are refused before a head for other classes is trained", async () => {
  const args = ["slim", at("dense"), "--data", at("renamed"), "-o", at("refused"), "--train", "2h", "--macs", "0.001"];
  const { status, stderr } = await slimvit(...args);
  expect(stderr).toMatch(/slim: --macs 0\.001 cannot be reached: /);
  expect(stderr).not.toMatch(/finetune/);
  expect(status).toBe(2);
});

test.each<[string, string[], RegExp]>([
  ["no target", [], /slim: no target is given; give one of --lose-at-most, --latency-ms, --macs, --bytes/],
  ["two targets", ["--macs", "0.5", "--bytes", "3MB"], /slim: --macs and --bytes are two targets; give one/],
  ["a loss of everything", ["--lose-at-most", "100"], /--lose-at-most is 100; expected percentage points below 100/],
  [
    "MACs that no model has",
    ["--macs", "0.001"],
    /--macs 0\.001 cannot be reached: the smallest model .* has [\d.]+ % of the MACs/,
  ],
  ["bytes that no model has", ["--bytes", "100"], /--bytes 100 cannot be reached: .* has [\d.]+ kB\. Only widths/],
  ["a time that no model has", ["--latency-ms", "0.0000001"], /--latency-ms .* cannot be reached: .* ms/],
  ["a stage's option", ["--macs", "0.5", "--set", "search.epochs=1"], /--set works with a recipe file only/],
  [
    "variants of fewer bytes",
    ["--bytes", "3MB", "--elastic"],
    /--elastic keeps all widths.*another target than --bytes/,
  ],
  ["a time without a unit", ["--macs", "0.5", "--train", "2"], /expected auto, no, or a time such as "2h"/],
  ["a size that is none", ["--bytes", "small"], /expected a size such as "3MB"/],
])("%s is refused before the work", async (_, args, message) => {
  const { status, stderr } = await slimvit(...search("never", ...args));
  expect(stderr).toMatch(message);
  expect(status).toBe(2);
  expect(existsSync(at("never"))).toBe(false);
});

test("--train no with other classes fits a head first, and where val is missing says what to do", async () => {
  const args = ["--lose-at-most", "20", "--train", "no"];
  const outcome = await slimvitJson<Outcome>("slim", at("dense"), "--data", at("renamed"), "-o", at("fitted"), ...args);
  expect(outcome.notes[0]).toMatch(
    /the dense model's head was fitted to its features, and nothing was trained: --train no/,
  );
  expect(readManifestFile(at("fitted")).labels.map(({ label }) => label)).toEqual(["apples", "figs", "limes"]);
  expect(-100 * outcome.val.difference).toBeLessThanOrEqual(20);

  await writePictures(at("other", "train"), 6, ["apples", "figs", "limes"]);
  const { status, stderr } = await slimvit("slim", at("dense"), "--data", at("other"), "-o", at("never"), ...args);
  expect(stderr).toMatch(
    /slim: Class folder "apples" is none of .*, and --train no was given.* into val\/CLASS .*--unlabelled/,
  );
  expect(status).toBe(2);
});

test("a time to train is refused where the data has no val pictures of its own", async () => {
  await writePictures(at("unsplit", "train"), 6);
  const args = ["--data", at("unsplit"), "-o", at("never"), "--lose-at-most", "1", "--train", "1h"];
  const { status, stderr } = await slimvit("slim", at("dense"), ...args);
  expect(stderr).toMatch(/slim: --train is not possible: the data has no train and val pictures of its own/);
  expect(status).toBe(2);
});

test("an output that holds something else is not touched, with --force either", async () => {
  mkdirSync(at("full"), { recursive: true });
  for (const force of [[], ["--force"]]) {
    const { status, stderr } = await slimvit(...search("pictures", "--macs", "0.5", ...force));
    expect(stderr).toMatch(/pictures: (exists already|is the input itself|holds .*)/);
    expect(status).toBe(2);
  }
});
