import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { parse } from "yaml";
import { float32 } from "../../src/format/read.ts";
import { readModelFolder } from "../../tools/models/folders.ts";
import { readRecipe, withPathsFrom } from "../../tools/recipes/recipeFile.ts";
import type { RecipeReport } from "../../tools/recipes/runRecipe.ts";
import {
  BIN,
  CLASSES,
  randomTensors,
  slimvit,
  slimvitJson,
  tinyArchitecture,
  workplace,
  writeCheckpoint,
  writeLabels,
  writePictures,
} from "./fixtures.ts";

const at = workplace("slim");

beforeAll(async () => {
  writeCheckpoint(at("tiny.safetensors"), randomTensors(tinyArchitecture(), CLASSES.length, 1));
  writeLabels(at("labels.tsv"));
  await writePictures(at("pictures"), 10);
  writeRecipe("recipe.yaml", "slim");
});

/** Everything from the checkpoint on; paths are relative to the recipe. */
function writeRecipe(file: string, out: string, compress = "{ macs: 0.6 }"): void {
  const lines = [
    "import: { source: tiny.safetensors, heads: 2, labels: labels.tsv }",
    "data: pictures",
    `out: ${out}`,
    `stages: ${out}.stages`,
    "seed: 5",
    "batch: 6",
    "epochs: 2",
    "search: { lr-mask: 0.01, wAttn: 0.01 }",
    `compress: ${compress}`,
    "retrain: { epochs: 30, checkpoint-seconds: 0, ema: 0.9 }",
    "export: { dtype: [f32, int8] }",
    "eval: { engine: reference }",
  ];
  writeFileSync(at(file), lines.join("\n"));
}

const steps = (folder: string) =>
  readModelFolder(folder).manifest.provenance.steps as (Record<string, unknown> & { command: string })[];

describe("slimvit slim RECIPE", () => {
  test("goes from checkpoint to measured model, and records what repeats it", async () => {
    const report = await slimvitJson<RecipeReport>("slim", at("recipe.yaml"));
    expect(report.stages.map(({ stage, skipped }) => [stage, skipped])).toEqual(
      ["import", "search", "compress", "retrain", "export", "eval"].map((stage) => [stage, false]),
    );
    expect(report.n).toBe(6);
    const dense = await slimvitJson<{ macs: number }>("inspect", report.stages[0].folder);
    expect(report.macs).toBeLessThanOrEqual(0.6 * dense.macs);

    const made = steps(at("slim"));
    expect(made.map(({ command }) => command)).toEqual(["import", "search", "compress", "retrain", "export"]);
    const retrained = made[3];
    expect(retrained).toMatchObject({ seed: 5, batch: 6, epochs: 30, ema: 0.9, data: ["pictures"] });
    expect(retrained.environment).toMatch(
      /^node \d+\.\d+\.\d+, tfjs 4\.\d+\.\d+, tfjs-node \(TensorFlow 2\.\d+\.\d+\)/,
    );
    expect(retrained.teacherSha256).toEqual([sha256(join(report.stages[0].folder, "model.f32.safetensors"))]);

    const listed = readFileSync(at("slim.stages", "pictures.sha256"), "utf8").trimEnd();
    expect(listed.split("\n")).toHaveLength(30);
    expect(listed).toContain(`${sha256(at("pictures", "plums", "03.png"))}  plums/03.png`);
    expect(retrained.dataSha256).toEqual([createHash("sha256").update(listed).digest("hex")]);
    for (const page of [join(report.stages[1].folder, "report.html"), at("slim.stages", "slim.html")])
      expect(readFileSync(page, "utf8")).toContain("Loss and its terms");
    expect(JSON.stringify(readModelFolder(at("slim")).manifest)).not.toContain(at()); // no path of this machine
  });

  test("skips what is done: all of it, or all before the changed option", async () => {
    const before = statSync(at("slim", "slimvit.json")).mtimeMs;
    const again = await slimvitJson<RecipeReport>("slim", at("recipe.yaml"));
    expect(again.stages.map(({ skipped }) => skipped)).toEqual(Array(6).fill(true));
    expect(statSync(at("slim", "slimvit.json")).mtimeMs).toBe(before);

    const other = await slimvitJson<RecipeReport>(
      "slim",
      at("recipe.yaml"),
      "--macs",
      "0.8",
      "-o",
      at("larger"),
      "--stages",
      at("slim.stages"),
      "--set",
      "retrain.epochs=1",
    );
    expect(other.stages.map(({ skipped }) => skipped)).toEqual([true, true, false, false, false, false]);
    expect(other.macs).toBeGreaterThan(again.macs);
  });

  test("killed in training and started again, it ends with the same weights", async () => {
    writeRecipe("killed.yaml", "killed");
    let checkpoint: string | undefined;
    const child = spawn(process.execPath, [BIN, "slim", at("killed.yaml")], { stdio: "ignore" });
    const poll = setInterval(() => {
      if (!existsSync(at("killed.stages"))) return;
      checkpoint = readdirSync(at("killed.stages")).find((name) => /^\.retrain-.*checkpoint\.safetensors$/.test(name));
      if (checkpoint) child.kill("SIGKILL");
    }, 5);
    const signal = await new Promise((resolve) => child.on("exit", (_, signal) => resolve(signal)));
    clearInterval(poll);
    expect(signal).toBe("SIGKILL");
    expect(existsSync(at("killed"))).toBe(false);

    const { status, stderr } = await slimvit("slim", at("killed.yaml"));
    expect(status).toBe(0);
    expect(stderr).toMatch(/slim: search is done already/);
    expect(stderr).toMatch(/retrain: resumed at step \d+ of 90/);
    const [whole, resumed] = [readModelFolder(at("slim")), readModelFolder(at("killed"))];
    for (const name of whole.tensors.keys())
      expect(float32(resumed.tensors, name)).toEqual(float32(whole.tensors, name));
  });

  test("the recipe it leaves beside the stages makes the same model again", async () => {
    const recipe = parse(readFileSync(at("slim.stages", "slim.yaml"), "utf8"));
    expect(recipe.search).toMatchObject({ lrMask: 0.01, wAttn: 0.01, masks: "channel", epochs: 2 });
    const again = await slimvitJson<RecipeReport>(
      "slim",
      at("slim.stages", "slim.yaml"),
      "--stages",
      at("slim.stages"),
    );
    expect(again.stages.map(({ skipped }) => skipped)).toEqual(Array(6).fill(true));
  });

  test("finetunes first where the data's classes are not the model's", async () => {
    await writePictures(at("renamed"), 5, ["apples", "figs", "limes"]);
    const [dense] = readdirSync(at("slim.stages")).filter((name) => name.startsWith("import"));
    const lines = [`model: slim.stages/${dense}`, "data: renamed", "out: tuned", "epochs: 1", "batch: 3"];
    writeFileSync(at("renamed.yaml"), [...lines, "compress: { macs: 0.7 }"].join("\n"));
    const report = await slimvitJson<RecipeReport>("slim", at("renamed.yaml"));
    expect(report.stages[0].stage).toBe("finetune");
    expect(readModelFolder(at("tuned")).manifest.labels.map(({ id }) => id)).toEqual(["apples", "figs", "limes"]);
  });

  test.each<[string, string, RegExp]>([
    ["an unknown stage", "serach: {}", /has the unknown key "serach"; it may have model, out/],
    ["an unknown option", "search: { lr-masks: 1 }", /search has the unknown key "lr-masks"; it may have .*lr-mask/],
    ["a wrong value", "retrain: { epochs: many }", /retrain: option '--epochs <n>' argument 'many' is invalid/],
    ["a choice there is not", "search: { masks: row }", /search: option '--masks <mode>' argument 'row' is invalid/],
    ["an option that slim sees to", "search: { out: here }", /search has the unknown key "out"/],
    ["a section that is a list", "search: [1]", /"search" must hold options by name/],
    ["no YAML", "search: {", /is not valid YAML/],
  ])("%s in a recipe is one sentence, exit 2, before anything runs", async (what, line, message) => {
    const file = at(`${what.replaceAll(" ", "-")}.yaml`);
    writeFileSync(file, `model: nowhere\ndata: pictures\nout: never\ncompress: { macs: 0.5 }\n${line}\n`);
    const { status, stderr } = await slimvit("slim", file);
    expect(stderr).toMatch(message);
    expect(stderr.trim().split("\n")).toHaveLength(1);
    expect(status).toBe(2);
    expect(existsSync(at("never"))).toBe(false);
  });

  test("an output that is in the way is said before anything is trained", async () => {
    const before = readdirSync(at("slim.stages"));
    const { status, stderr } = await slimvit("slim", at("recipe.yaml"), "--macs", "0.5");
    expect(stderr).toMatch(/^slimvit: .*slim: exists already and is not what this recipe makes/);
    expect(status).toBe(2);
    expect(readdirSync(at("slim.stages"))).toEqual(before);
  });

  test("an output whose stages are gone is left as it is, with one sentence", async () => {
    mkdirSync(at("orphan"));
    writeRecipe("orphan.yaml", "orphan");
    const { status, stderr } = await slimvit("slim", at("orphan.yaml"));
    expect(stderr).toMatch(
      /^slimvit: .*orphan: exists already, and there are no stages to compare it with \(.*--force/,
    );
    expect(status).toBe(2);
    expect(readdirSync(at("orphan"))).toEqual([]);
    expect(existsSync(at("orphan.stages"))).toBe(false);
  });

  test("every path of a recipe starts from the recipe's folder", () => {
    const sections = {
      compress: { weights: "own", profile: "device.json", macs: 0.5 },
      data: ["a", "/b"],
      teacher: "none",
    };
    expect(withPathsFrom("/there", sections)).toEqual({
      compress: { weights: "/there/own", profile: "/there/device.json", macs: 0.5 },
      data: ["/there/a", "/b"],
      teacher: "none",
    });
  });

  test("no target is one sentence", async () => {
    writeFileSync(at("aimless.yaml"), "model: nowhere\ndata: pictures\nout: never\n");
    const { status, stderr } = await slimvit("slim", at("aimless.yaml"));
    expect(stderr).toMatch(/^slimvit: .*aimless\.yaml: has no target; add one to "compress"/);
    expect(status).toBe(2);
  });

  test("what slim decides by itself cannot be given for a recipe", async () => {
    const { status, stderr } = await slimvit("slim", at("recipe.yaml"), "--lose-at-most", "1");
    expect(stderr).toMatch(/^slimvit: slim: --lose-at-most works with a model folder only/);
    expect(status).toBe(2);
  });
});

const sha256 = (path: string) => createHash("sha256").update(readFileSync(path)).digest("hex");

test("a recipe beside a shipped model has the options of the steps in its manifest", () => {
  const models = join(import.meta.dirname, "../../models");
  const recipes = readdirSync(models).filter((folder) => existsSync(join(models, folder, "recipe.yaml")));
  expect(recipes).toContain("deit-tiny-caltech101-small");
  const compared: string[] = [];
  for (const folder of recipes) {
    const recipe = readRecipe(join(models, folder, "recipe.yaml"), { data: ["pictures"] });
    const { steps } = readModelFolder(join(models, folder)).manifest.provenance as { steps: Record<string, unknown>[] };
    // What a command did first is the recipe's; what was done to its result comes after.
    const own = steps.filter(({ command }, i) => steps.findIndex((step) => step.command === command) === i);
    for (const { command, ...recorded } of own) {
      const section = recipe[command as "search"] ?? {};
      for (const [key, value] of Object.entries(section)) {
        const name = key.replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase());
        if (!(name in recorded) || typeof value === "object") continue;
        compared.push(name);
        expect([recorded[name]].flat()[0], `${command}.${name}`).toBe(value);
      }
    }
  }
  expect(compared.length).toBeGreaterThan(10);
});
