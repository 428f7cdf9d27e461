/**
 * A recipe of fixed stages: a YAML file, overridden by the command line's flags, whose sections are the options of the
 * stages.
 */
import { existsSync, readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { parse, YAMLParseError } from "yaml";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { SPLITS } from "../data/splits.ts";
import { choice, findOption, flag, longName, type OptionsOf, optional, readOptions } from "../options/spec.ts";
import { STAGE_OPTIONS, STAGES, type StageName, type StageOptions } from "../options/stages.ts";
import { count, natural, path, paths, positive } from "../options/values.ts";
import { BACKENDS } from "../training/backend.ts";

export type Section = Record<string, unknown>;

/** Options that a recipe gives once for every stage that has them. A stage's own section takes precedence. */
const SHARED = {
  data: optional("--data <source>", "folders, zips, tars or tables", paths),
  split: choice("--split <split>", "which part of the data trains", SPLITS),
  seed: optional("--seed <n>", "of everything random", natural),
  epochs: optional("--epochs <n>", "of each training stage", positive),
  batch: optional("--batch <n>", "pictures a step", count),
  backend: choice("--backend <name>", "TensorFlow.js backend", BACKENDS),
  precision: choice("--precision <p>", "rounding of matrix products", ["f32", "bf16"]),
};

/** The keys of a recipe outside of its sections. */
const TOP = {
  model: optional("--model <folder>", "model folder to start from, where there is no import", path),
  out: optional("--out <folder>", "output folder", path),
  teacher: optional(
    "--teacher <model>",
    'model folder, or "none"; default the model that the search starts from',
    path,
  ),
  stages: optional("--stages <folder>", "where stages are kept; default the output folder's name with .stages", path),
  force: flag("--force", "replace the output folder"),
  ...SHARED,
};

export type RecipeFile = OptionsOf<typeof TOP> & {
  /** how messages call it */
  name: string;
  out: string;
  data: string[];
  import?: Section;
  finetune?: Section | boolean;
} & Record<Exclude<StageName, "import" | "finetune">, Section>;

/** The options of the command line that override a recipe. */
export interface RecipeFlags extends Pick<OptionsOf<typeof TOP>, "data" | "out" | "stages" | "force" | "seed"> {
  macs?: number;
  set?: string[];
}

const TOP_KEYS = [...Object.keys(TOP), ...STAGES];

/** Options that `slim` sets itself. */
const WIRED = ["out", "json", "force", "resume", "restart", "record", "budgets"] as const;
const isWired = (name: string) => (WIRED as readonly string[]).includes(name);

/** A stage's options, without those that `slim` adds. */
export type StageSettings<S extends StageName> = Omit<StageOptions<S>, (typeof WIRED)[number]>;

/** @throws SlimViTError `bad-option` naming the file, the key and the fault */
export const readRecipe = (file: string, flags: RecipeFlags): RecipeFile => recipeOf(readYaml(file), file, flags);

/** @param name of the file, from whose folder the paths in `raw` start */
export function recipeOf(raw: Section, name: string, flags: RecipeFlags): RecipeFile {
  const unknown = Object.keys(raw).find((key) => !TOP_KEYS.includes(key));
  if (unknown !== undefined) fail(name, `has the unknown key "${unknown}"; it may have ${TOP_KEYS.join(", ")}.`);
  const values = withPathsFrom(dirname(resolve(name)), raw);
  const top = readOptions(TOP, values, name);
  for (const key of Object.keys(TOP) as (keyof typeof TOP)[])
    if (key in flags && flags[key as keyof RecipeFlags] !== undefined)
      Object.assign(top, { [key]: flags[key as keyof RecipeFlags] });

  const sections = sectionsOf(values, flags, name);
  if (top.model === undefined && !sections.import)
    fail(name, 'names no "model" and no "import"; give the one to start from it.');
  if (top.model !== undefined && sections.import) fail(name, 'has both "model" and "import"; give one of them.');
  const { out, data } = top;
  if (out === undefined) fail(name, 'names no "out"; add it, or give -o.');
  if (!data?.length) fail(name, 'names no "data"; add it, or give --data.');
  const recipe: RecipeFile = { ...top, ...sections, name, out, data };
  if (Object.keys(recipe.compress).length === 0)
    fail(
      name,
      'has no target; add one to "compress", such as { macs: 0.7 }, or give --macs R, a share of the dense model.',
    );
  // Every stage's options are read before the first one runs: a typing error in the last must not cost a search.
  for (const stage of STAGES) {
    const section = recipe[stage];
    if (typeof section !== "object") continue;
    const { source: _, ...options } = section;
    stageSettings(stage, stage === "import" ? options : section, recipe);
  }
  return recipe;
}

type Sections = Pick<RecipeFile, StageName>;

/** Each stage's section with the flags laid over it. */
function sectionsOf(raw: Section, flags: RecipeFlags, name: string): Sections {
  const sectionOf = (stage: StageName): Section | undefined => {
    const section = raw[stage] ?? undefined;
    if (section === undefined) return undefined;
    if (typeof section !== "object" || Array.isArray(section)) fail(name, `"${stage}" must hold options by name.`);
    return { ...(section as Section) };
  };
  const sections: Sections = {
    ...(raw.import !== undefined && { import: sectionOf("import") }),
    finetune: typeof raw.finetune === "boolean" ? raw.finetune : sectionOf("finetune"),
    search: sectionOf("search") ?? {},
    compress: sectionOf("compress") ?? {},
    retrain: sectionOf("retrain") ?? {},
    export: sectionOf("export") ?? {},
    eval: sectionOf("eval") ?? {},
  };
  if (flags.macs !== undefined) sections.compress = { macs: flags.macs };
  sections.export.dtype ??= ["f32", "int8"];
  for (const assignment of flags.set ?? []) assign(sections, assignment);
  return sections;
}

/**
 * A section's keys are the command's options, as --long-name or camelCase. Keys that it lacks come from the recipe's
 * shared values, then from the command's defaults.
 *
 * @throws SlimViTError `bad-option` naming the file, the stage, the key and the fault
 */
export function stageSettings<S extends StageName>(stage: S, section: Section, recipe: RecipeFile): StageSettings<S> {
  const specs = Object.fromEntries(Object.entries(STAGE_OPTIONS[stage]).filter(([name]) => !isWired(name)));
  const where = `${recipe.name}: ${stage}`;
  for (const key of Object.keys(section)) {
    if (findOption(specs, key)) continue;
    const known = Object.values(specs).map(longName);
    throw new SlimViTError("bad-option", `${where} has the unknown key "${key}"; it may have ${known.join(", ")}.`);
  }
  const isShared = (name: string): name is keyof typeof SHARED => name in SHARED && name in specs;
  const own = Object.keys(section).map((key) => findOption(specs, key));
  const shared = Object.keys(SHARED).filter((key) => isShared(key) && !own.includes(key) && recipe[key] !== undefined);
  const values = { ...Object.fromEntries(shared.map((key) => [key, recipe[key as keyof typeof SHARED]])), ...section };
  return readOptions(specs, values, where) as StageSettings<S>;
}

export function readYaml(path: string): Section {
  if (!existsSync(path)) throw new SlimViTError("bad-option", `${path}: no such recipe file.`);
  let content: unknown;
  try {
    content = parse(readFileSync(path, "utf8"));
  } catch (error) {
    const fault =
      error instanceof YAMLParseError ? `${error.code} at line ${error.linePos?.[0].line}` : messageOf(error);
    throw new SlimViTError("bad-option", `${path}: is not valid YAML (${fault}).`);
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
function assign(sections: Sections, assignment: string): void {
  const [, stage, key, text] = assignment.match(/^(\w+)\.([\w-]+)=(.*)$/) ?? [];
  if (!(STAGES as readonly string[]).includes(stage)) {
    throw new SlimViTError(
      "bad-option",
      `--set ${assignment}: expected STAGE.OPTION=VALUE with a stage of ${STAGES.join(", ")}.`,
    );
  }
  const section = sections[stage as StageName];
  sections[stage as StageName] = { ...(typeof section === "object" && section), [key]: parse(text) };
}

function fail(name: string, fault: string): never {
  throw new SlimViTError("bad-option", `${name}: ${fault}`);
}
