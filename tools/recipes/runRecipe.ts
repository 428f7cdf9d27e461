/**
 * slimvit slim RECIPE.yaml: runs the stages of the recipe one after the other: import, finetune, search, compress,
 * retrain, export and eval. The result of each stage is in its own folder under DIR.stages, named after a hash of
 * everything that it depends on. So a stopped run continues where it was, a finished stage is skipped, and another
 * target uses the same search.
 */
import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { stringify } from "yaml";
import { SlimViTError } from "../../src/errors.ts";
import { countMacs, countParams } from "../../src/format/model.ts";
import { importModel } from "../checkpoints/import.ts";
import { openDataset, type Split, unknownClass } from "../data/data.ts";
import { digestData } from "../data/digest.ts";
import { type EvalReport, evaluate } from "../evaluation/evaluate.ts";
import { compress } from "../masks/compress.ts";
import { search } from "../masks/search.ts";
import { macsOfOriginal } from "../models/card.ts";
import { claimOutput, modelDigest, readManifestFile, sha256, writeFileAtomic } from "../models/folders.ts";
import type { AccuracyRecord } from "../models/metrics.ts";
import type { StageName } from "../options/stages.ts";
import toolsPackage from "../package.json" with { type: "json" };
import { reportHtml } from "../report/report.ts";
import { withLock } from "../shared/lock.ts";
import { percent, say } from "../shared/terminal.ts";
import { finetune } from "../training/finetune.ts";
import { OBSERVERS } from "../training/options.ts";
import { retrain } from "../training/retrain.ts";
import { exportModel } from "./export.ts";
import { readReportModel } from "./modelReport.ts";
import {
  type RecipeFile,
  type RecipeFlags,
  readRecipe,
  type Section,
  type StageSettings,
  stageSettings,
} from "./recipeFile.ts";
import { checkInputs, checkTarget } from "./target.ts";

export interface RecipeReport {
  out: string;
  stages: { stage: StageName; folder: string; skipped: boolean; seconds: number }[];
  params: number;
  macs: number;
  top1: number;
  top5: number;
  n: number;
}

/** @param flags laid over what the file says */
export const runFile = (file: string, flags: RecipeFlags): Promise<RecipeReport> => runRecipe(readRecipe(file, flags));

export async function runRecipe(recipe: RecipeFile): Promise<RecipeReport> {
  const out = resolve(recipe.out);
  await checkInputs(recipe);
  const folder = recipe.stages ?? `${out}.stages`;
  // An existing output is reported before hours of training, not after.
  if (existsSync(out) && !recipe.force) {
    if (!existsSync(folder)) {
      throw new SlimViTError(
        "bad-option",
        `${out}: exists already, and there are no stages to compare it with (${folder}). ` +
          "Keep it as it is, or make everything again with --force or another -o.",
      );
    }
    await runStages(new Run(recipe, folder, true), recipe, out);
  } else {
    const { model, teacher, data } = recipe;
    claimOutput(out, recipe.force, [model, teacher === "none" ? undefined : teacher, folder], data);
  }
  const run = new Run(recipe, folder);
  const { dense, searched, retrained } = await runStages(run, recipe, out);

  await writeRecords(run, recipe);
  const accuracy = await measure(run, recipe, out);
  const pages = [searched, retrained, out].map(readReportModel);
  writeFileAtomic(join(run.folder, `${basename(out)}.html`), reportHtml(pages));

  const manifest = readManifestFile(out);
  const classes = manifest.labels.length;
  const [params, macs] = [countParams(manifest, classes), countMacs(manifest, classes)];
  const denseManifest = readManifestFile(dense);
  const original = macsOfOriginal(manifest);
  say(
    `slim: ${percent(macs / countMacs(denseManifest, classes))} of the MACs${original ? ` (${original})` : ""}, ` +
      `${percent(params / countParams(denseManifest, classes))} of the parameters, top-1 ${percent(accuracy.top1)} ` +
      `of ${accuracy.n} pictures → ${out}`,
  );
  return { out, stages: run.done, params, macs, top1: accuracy.top1, top5: accuracy.top5, n: accuracy.n };
}

/** Import to export; @returns the folders that the report is about */
async function runStages(
  run: Run,
  recipe: RecipeFile,
  out: string,
): Promise<{ dense: string; searched: string; retrained: string }> {
  const model = await startModel(run, recipe);
  const isFinetuned = await needsFinetune(recipe, model, run.dry);
  if (!run.dry) await checkReach(recipe, model, isFinetuned);
  const section = typeof recipe.finetune === "object" ? recipe.finetune : {};
  const dense = isFinetuned
    ? await run.stage("finetune", section, {}, (folder, options) =>
        finetune(model, { ...options, ...run.training(folder) }),
      )
    : model;
  const teacher = recipe.teacher === undefined ? dense : recipe.teacher === "none" ? undefined : recipe.teacher;
  const taught = (section: Section): Section =>
    teacher && !("teacher" in section) ? { ...section, teacher } : section;

  const searched = await run.stage("search", taught(recipe.search), {}, (folder, options) =>
    search(dense, { ...options, ...run.training(folder) }),
  );
  const compressed = await run.stage("compress", recipe.compress, {}, (folder, options) =>
    compress(searched, { ...options, out: folder }),
  );
  const retrained = await run.stage("retrain", taught(recipe.retrain), {}, (folder, options) =>
    retrain(compressed, { ...options, ...run.training(folder) }),
  );
  await run.stage(
    "export",
    { name: basename(out), ...recipe.export },
    {},
    async (_, options) => {
      const origin = { slim: { key: run.key, tools: toolsPackage.version } };
      await exportModel(retrained, { ...options, out, force: recipe.force }, origin);
    },
    out,
  );
  return { dense, searched, retrained };
}

/** @throws SlimViTError `bad-option` for a target that no search can reach, before the first training */
async function checkReach(recipe: RecipeFile, model: string, isFinetuned: boolean): Promise<void> {
  const manifest = readManifestFile(model);
  const { classNames } = await openDataset(recipe.data, recipe.split ?? "train", { unlabelled: !isFinetuned });
  const classes = isFinetuned ? classNames.length : manifest.labels.length;
  const search = stageSettings("search", recipe.search, recipe);
  checkTarget(manifest, classes, search, stageSettings("compress", recipe.compress, recipe));
}

/** @returns the folder of the model that the recipe names, or that it imports */
async function startModel(run: Run, recipe: RecipeFile): Promise<string> {
  if (!recipe.import) {
    const model = recipe.model!; // readRecipe has seen to it
    run.key = modelDigest(readManifestFile(model));
    return model;
  }
  const { source: checkpoint, ...section } = recipe.import;
  if (typeof checkpoint !== "string")
    throw new SlimViTError("bad-option", `${recipe.name}: "import" needs a "source", the checkpoint.`);
  const parts = { files: await hashOf(checkpoint), labels: await hashOf(section.labels as string | undefined) };
  return run.stage("import", section, parts, (folder, options) => importModel(checkpoint, { ...options, out: folder }));
}

/**
 * Names each stage's folder after a hash of its options and of all that came before, and runs the stages that are not
 * done yet.
 */
class Run {
  readonly done: RecipeReport["stages"] = [];
  /** the options of each stage, defaults included */
  readonly resolved: Partial<Record<StageName, Record<string, unknown>>> = {};
  /** of the stage that ran last; before the first one, of the model */
  key = "";

  constructor(
    private readonly recipe: RecipeFile,
    readonly folder: string,
    /** only find out whether all stages are done already */
    readonly dry = false,
  ) {}

  training(out: string): { out: string; force: boolean } {
    return { out, force: false };
  }

  /** @returns the folder with the stage's result */
  async stage<S extends StageName>(
    name: S,
    section: Section,
    parts: Record<string, unknown>,
    perform: (folder: string, options: StageSettings<S>) => unknown,
    out?: string,
  ): Promise<string> {
    const options = stageSettings(name, section, this.recipe);
    this.key = sha256(Buffer.from(JSON.stringify([name, this.key, await identity(options), parts])));
    this.resolved[name] = options;
    const folder = out ?? join(this.folder, `${name}-${this.key.slice(0, 10)}`);
    const missing = () => (out ? madeFrom(out) !== this.key : !existsSync(folder));
    const skipped = !missing();
    if (!skipped && this.dry) {
      throw new SlimViTError(
        "bad-option",
        `${resolve(this.recipe.out)}: exists already and is not what this recipe makes with the stages in ${this.folder}. ` +
          "Choose another -o, or give --force to replace it.",
      );
    }
    if (this.dry) return folder;
    say(skipped ? `slim: ${name} is done already (${folder})` : `slim: ${name} → ${folder}`);
    const started = performance.now();
    if (!skipped) {
      // Runs of a sweep share stages: the first one that comes to it makes it, the others wait and take what is there.
      const lock = join(this.folder, `.${name}-${this.key.slice(0, 10)}.lock`);
      const wait = () => say(`slim: ${name} is being made by another run; waiting for it`);
      await withLock(lock, wait, async () => void (missing() && (await perform(folder, options))));
    }
    this.done.push({ stage: name, folder, skipped, seconds: (performance.now() - started) / 1000 });
    return folder;
  }
}

/** The options by value: data, models and files by their content, not by where they lie. */
export async function identity(options: Record<string, unknown>): Promise<unknown> {
  const unseen = [...OBSERVERS, "labels", "backend"];
  const seen = Object.fromEntries(Object.entries(options).filter(([key]) => !unseen.includes(key)));
  const { data, teacher, weights, profile, ...rest } = seen;
  const digests = await Promise.all(((data as string[]) ?? []).map(digestData));
  const digestOf = (model: unknown) => (model ? modelDigest(readManifestFile(model as string)) : undefined);
  return {
    ...rest,
    data: digests.map((digest) => digest.sha256),
    teacher: digestOf(teacher),
    weights: digestOf(weights),
    profile: await hashOf(profile as string | undefined),
  };
}

export async function hashOf(path: string | undefined): Promise<string | undefined> {
  if (path === undefined) return undefined;
  if (!existsSync(path)) throw new SlimViTError("bad-input", `${path}: no such file or folder.`);
  return (await digestData(path)).sha256;
}

function madeFrom(out: string): string | undefined {
  if (!existsSync(join(out, "slimvit.json"))) return undefined;
  return (readManifestFile(out).provenance.slim as { key?: string } | undefined)?.key;
}

/** Whether to finetune first: where the recipe asks for it, or where the data's classes are not the model's. */
async function needsFinetune(recipe: RecipeFile, model: string, quiet: boolean): Promise<boolean> {
  if (recipe.finetune !== undefined) return recipe.finetune !== false;
  if (recipe.search.unlabelled && recipe.retrain.unlabelled) return false;
  const { classNames } = await openDataset(recipe.data, recipe.split ?? "train");
  const unknown = unknownClass(classNames, readManifestFile(model).labels);
  if (unknown && !quiet) say(`slim: finetunes first, because the data's classes are not the model's: ${unknown}`);
  return unknown !== undefined;
}

/** Measures the shipped model, on pictures that no stage was trained on where there are any. */
async function measure(run: Run, recipe: RecipeFile, out: string): Promise<EvalReport> {
  const started = performance.now();
  const section = { ...recipe.eval };
  if (section.split === undefined) section.split = await heldOutSplit((section.data as string[]) ?? recipe.data);
  const options = stageSettings("eval", section, { ...recipe, split: undefined });
  const data = options.data.map((source) => basename(source)).join(" + ");
  const known = ((readManifestFile(out).metrics.accuracy ?? []) as AccuracyRecord[]).find(
    (entry) => entry.data === data && entry.split === options.split && options.limit === undefined,
  );
  const report = known ?? (await evaluate(out, { ...options, record: true }));
  const seconds = (performance.now() - started) / 1000;
  run.done.push({ stage: "eval", folder: out, skipped: known !== undefined, seconds });
  return report as EvalReport;
}

async function heldOutSplit(data: string[]): Promise<Split> {
  for (const split of ["test", "val"] as Split[]) {
    try {
      await openDataset(data, split);
      return split;
    } catch {
      // no pictures in it: the next
    }
  }
  say("slim: the data has no test and no val pictures; accuracy is measured on the pictures trained on");
  return "all";
}

/** Beside the stages: the recipe with every default filled in, and the hash of every file of the data. */
async function writeRecords(run: Run, recipe: RecipeFile): Promise<void> {
  const { name: _, force: __, stages: ___, ...rest } = recipe;
  const filled = {
    ...rest,
    out: resolve(recipe.out),
    ...run.resolved,
    ...(recipe.import && { import: { source: recipe.import.source, ...run.resolved.import } }),
    finetune: run.resolved.finetune ?? false,
  };
  writeFileAtomic(join(run.folder, `${basename(filled.out)}.yaml`), stringify(filled));
  for (const { name, files } of await Promise.all(recipe.data.map(digestData)))
    writeFileAtomic(join(run.folder, `${name}.sha256`), `${files.join("\n")}\n`);
}
