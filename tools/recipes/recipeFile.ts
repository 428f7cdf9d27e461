/** A recipe for `slimvit slim`: a YAML file, the command line's flags laid over it, and each stage's section as its options. */
import { existsSync, readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { type Command, CommanderError, type Option } from "commander";
import { parse } from "yaml";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { STAGES, type StageName, stageCommand } from "../commands/options.ts";
import type { Split } from "../data/data.ts";

export type Section = Record<string, unknown>;

/** Said once for every stage that has such an option; a stage's own section comes first. */
const SHARED = ["data", "split", "seed", "epochs", "batch", "backend", "precision"] as const;

export interface RecipeFile extends Partial<Record<(typeof SHARED)[number], unknown>> {
  /** how messages call it */
  name: string;
  model: string;
  out: string;
  data: string[];
  split?: Split;
  /** model folder, or "none"; default the model that the search starts from */
  teacher?: string;
  stages?: string;
  force?: boolean;
  import?: Section;
  finetune?: Section | boolean;
  search: Section;
  compress: Section;
  retrain: Section;
  export: Section;
  eval: Section;
}

export interface SlimFlags {
  data?: string[];
  out?: string;
  macs?: number;
  params?: number;
  split?: Split;
  teacher?: string | false;
  finetune?: boolean;
  epochs?: number;
  batch?: number;
  seed?: number;
  backend?: string;
  precision?: string;
  dtype?: string[];
  onnx?: boolean;
  stages?: string;
  set?: string[];
  force?: boolean;
}

const TOP_KEYS = ["model", "out", "teacher", "stages", "force", ...SHARED, ...STAGES];
/** `slim` sees to these itself. */
const WIRED = ["out", "json", "force", "resume", "record", "budgets"];

/** @throws SlimViTError `bad-option` naming the file, the key and the fault */
export function readRecipe(source: string, flags: SlimFlags): RecipeFile {
  const isFile = /\.ya?ml$/i.test(source);
  return isFile ? recipeOf(readYaml(source), source, flags) : recipeOf({ model: source }, undefined, flags);
}

/** @param file from whose folder the paths in `raw` start; without one, those of the command line */
export function recipeOf(raw: Section, file: string | undefined, flags: SlimFlags): RecipeFile {
  const isFile = file !== undefined;
  const name = file ?? "slim";
  const unknown = Object.keys(raw).find((key) => !TOP_KEYS.includes(key));
  if (unknown !== undefined) fail(name, `knows no "${unknown}"; it may have ${TOP_KEYS.join(", ")}.`);
  for (const stage of STAGES) {
    const section = raw[stage] ?? undefined;
    if (section === undefined || (stage === "finetune" && typeof section === "boolean")) continue;
    if (typeof section !== "object" || Array.isArray(section)) fail(name, `"${stage}" must hold options by name.`);
  }

  const recipe = { ...(isFile ? withPathsFrom(dirname(resolve(file)), raw) : raw), name } as unknown as RecipeFile;
  for (const key of [...SHARED, "out", "stages", "force"] as const)
    if (flags[key] !== undefined) Object.assign(recipe, { [key]: flags[key] });
  if (flags.finetune !== undefined)
    recipe.finetune = flags.finetune && typeof recipe.finetune === "object" ? recipe.finetune : flags.finetune;
  if (flags.teacher !== undefined) recipe.teacher = flags.teacher === false ? "none" : flags.teacher;
  for (const stage of STAGES)
    if (stage !== "import" && stage !== "finetune") recipe[stage] = { ...(recipe[stage] as Section) };
  if (flags.macs !== undefined || flags.params !== undefined)
    recipe.compress = { macs: flags.macs, params: flags.params };
  recipe.export.dtype = flags.dtype ?? recipe.export.dtype ?? ["f32", "int8"];
  if (flags.onnx) recipe.export.onnx = true;
  for (const assignment of flags.set ?? []) assign(recipe, assignment);

  if (recipe.model === undefined && !recipe.import)
    fail(name, 'names no "model" and no "import"; give the one to start from.');
  if (recipe.model !== undefined && recipe.import) fail(name, 'has both "model" and "import"; give one of them.');
  if (recipe.out === undefined)
    fail(name, isFile ? 'names no "out"; add it, or give -o.' : "give -o, the output folder.");
  if (typeof recipe.data === "string") recipe.data = [recipe.data];
  if (!recipe.data?.length) fail(name, isFile ? 'names no "data"; add it, or give --data.' : "give --data.");
  if (Object.keys(recipe.compress).length === 0)
    fail(name, "has no target; give --macs R or --params R, a share of the dense model.");
  // Every stage's options are read before the first one runs: a typing error in the last must not cost a search.
  for (const stage of STAGES) {
    const section = recipe[stage];
    if (typeof section !== "object") continue;
    const { source: _, ...options } = section;
    stageOptions(stage, stage === "import" ? options : section, recipe, "MODEL");
  }
  return recipe;
}

/**
 * A section's keys are the command's options, as --long-name or camelCase; the recipe's shared values are under them and
 * the command's defaults under those.
 *
 * @throws SlimViTError `bad-option` naming the file, the stage, the key and the fault
 */
export function stageOptions(stage: StageName, section: Section, recipe: RecipeFile, source: string): Section {
  const command = stageCommand(stage);
  const where = `${recipe.name}: ${stage}`;
  const shared = Object.fromEntries(
    SHARED.filter((key) => recipe[key] !== undefined && optionOf(command, key)).map((key) => [key, recipe[key]]),
  );
  const own = new Map<Option, unknown>();
  for (const [key, value] of [...Object.entries(shared), ...Object.entries(section)]) {
    const option = optionOf(command, key);
    if (!option || WIRED.includes(option.attributeName())) {
      const known = command.options.filter((o) => !WIRED.includes(o.attributeName())).map((o) => o.long?.slice(2));
      throw new SlimViTError("bad-option", `${where} knows no "${key}"; it may have ${known.join(", ")}.`);
    }
    own.set(option, value);
  }
  const argv = [...own].flatMap(([option, value]) => argumentsOf(option, value, where));
  if (command.options.some((option) => option.attributeName() === "out")) argv.push("--out=.");
  try {
    command.exitOverride().configureOutput({ writeErr: () => {} });
    command.parse([source, ...argv], { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    throw new SlimViTError("bad-option", `${where}: ${error.message.replace(/^error: /, "")}`);
  }
  const { out: _, ...options } = command.opts();
  return options;
}

function optionOf(command: Command, key: string): Option | undefined {
  return command.options.find((option) => option.attributeName() === key || option.long === `--${key}`);
}

function argumentsOf(option: Option, value: unknown, where: string): string[] {
  if (value === undefined || value === false) return [];
  if (value === null) throw new SlimViTError("bad-option", `${where}: "${option.long?.slice(2)}" has no value.`);
  if (value === true) return [option.long!];
  if (option.attributeName() === "data") return [value].flat().map((item) => `${option.long}=${item}`);
  const separator = option.attributeName() === "imageSize" ? "x" : ",";
  return [`${option.long}=${Array.isArray(value) ? value.join(separator) : value}`];
}

export function readYaml(path: string): Section {
  if (!existsSync(path)) throw new SlimViTError("bad-option", `${path}: no such recipe file.`);
  let content: unknown;
  try {
    content = parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new SlimViTError("bad-option", `${path}: is no YAML (${messageOf(error).split("\n")[0].replace(/:$/, "")}).`);
  }
  if (typeof content !== "object" || content === null || Array.isArray(content))
    return fail(path, 'must hold keys and values, such as "model: deit-tiny".');
  return content as Section;
}

/** Paths in a recipe start from its own folder. */
export function withPathsFrom(folder: string, raw: Section): Section {
  const recipe = structuredClone(raw);
  const at = (value: unknown) => (typeof value === "string" && value !== "none" ? resolve(folder, value) : value);
  for (const section of [recipe, ...STAGES.map((stage) => recipe[stage])] as (Section | undefined)[]) {
    if (typeof section !== "object" || section === null) continue;
    for (const key of ["model", "out", "teacher", "stages", "source", "labels", "weights", "profile"])
      if (section[key] !== undefined) section[key] = at(section[key]);
    if (section.data !== undefined) section.data = [section.data].flat().map(at);
  }
  return recipe;
}

/** search.epochs=2 */
function assign(recipe: RecipeFile, assignment: string): void {
  const [, stage, key, text] = assignment.match(/^(\w+)\.([\w-]+)=(.*)$/) ?? [];
  if (!(STAGES as readonly string[]).includes(stage)) {
    throw new SlimViTError(
      "bad-option",
      `--set ${assignment}: expected STAGE.OPTION=VALUE with a stage of ${STAGES.join(", ")}.`,
    );
  }
  const section = recipe[stage as StageName];
  recipe[stage as StageName] = { ...(typeof section === "object" && section), [key]: parse(text) };
}

function fail(name: string, fault: string): never {
  throw new SlimViTError("bad-option", `${name}: ${fault}`);
}
