/**
 * A sweep: a recipe of `slimvit slim` with one more section, `sweep: { budgets, weights, seeds }`. Every combination is
 * a point.
 */
import { dirname, join, resolve } from "node:path";
import { stringify } from "yaml";
import { SlimViTError } from "../../src/errors.ts";
import { type RecipeFile, readYaml, recipeOf, type Section, withPathsFrom } from "./recipeFile.ts";

export interface SweepPoint {
  /** e.g. macs-0.7-wAttn-0.001-seed-2 */
  label: string;
  /** compress's options */
  budget: Section;
  /** search's weights of the L1 terms; those not named are the recipe's */
  weights: Record<string, number>;
  seed: number;
  recipe: RecipeFile;
}

export interface Sweep {
  out: string;
  points: SweepPoint[];
  /** the file with its paths absolute: what the tasks of a job read, whatever happens to the file */
  frozen: string;
}

const KEYS = ["budgets", "weights", "seeds"];
const WEIGHTS: Record<string, string> = { "w-attn": "wAttn", "w-mlp": "wMlp", "w-patch": "wPatch" };

/**
 * Points come budget by budget, so that tasks which start together have different searches to make.
 * @throws SlimViTError `bad-option` naming the file, the key and the fault
 */
export function readSweep(file: string, flags: { out?: string }): Sweep {
  if (!/\.ya?ml$/i.test(file)) fail(file, "is no sweep file; give one ending in .yaml.");
  const { sweep, ...raw } = readYaml(file);
  if (typeof sweep !== "object" || sweep === null || Array.isArray(sweep))
    fail(file, 'has no section "sweep", such as "sweep: { budgets: [0.7, 0.5], seeds: [1, 2] }".');
  const section = sweep as Section;
  const unknown = Object.keys(section).find((key) => !KEYS.includes(key));
  if (unknown !== undefined) fail(file, `"sweep" has the unknown key "${unknown}"; it may have ${KEYS.join(", ")}.`);
  if (flags.out === undefined && typeof raw.out !== "string") fail(file, 'names no "out"; add it, or give -o.');
  const out = flags.out === undefined ? resolve(dirname(file), raw.out as string) : resolve(flags.out);

  const seeds = list(file, "seeds", section.seeds ?? [raw.seed ?? 0]) as number[];
  if (!seeds.every((seed) => Number.isSafeInteger(seed) && seed >= 0))
    fail(file, '"seeds" must be whole numbers from 0.');
  const points: SweepPoint[] = [];
  for (const budget of list(file, "budgets", section.budgets).map((value) => budgetOf(file, value))) {
    for (const weights of weightsOf(file, section.weights ?? {})) {
      for (const seed of seeds) {
        const label = [...Object.entries({ ...budget, ...weights }).map((pair) => pair.join("-")), `seed-${seed}`].join(
          "-",
        );
        if (points.some((point) => point.label === label)) fail(file, `"sweep" gives ${label} twice.`);
        const point = {
          ...raw,
          seed,
          compress: { ...(raw.compress as Section), ...budget },
          search: { ...(raw.search as Section), ...weights },
        };
        const recipe = recipeOf(point, file, { out: join(out, "models", label), stages: join(out, "stages") });
        points.push({ label, budget, weights, seed, recipe });
      }
    }
  }
  const frozen = stringify({ ...withPathsFrom(dirname(resolve(file)), raw), out, sweep });
  return { out, points, frozen };
}

/** 0.7 is short for { macs: 0.7 }. */
function budgetOf(file: string, value: unknown): Section {
  if (typeof value === "number") return { macs: value };
  if (typeof value === "object" && value !== null && !Array.isArray(value) && Object.keys(value).length > 0)
    return value as Section;
  return fail(file, `"budgets" has ${JSON.stringify(value)}; expected a share of the MACs, or compress's options.`);
}

/** Every combination. */
function weightsOf(file: string, section: unknown): Record<string, number>[] {
  if (typeof section !== "object" || section === null || Array.isArray(section))
    fail(file, `"weights" must hold lists by name: ${Object.keys(WEIGHTS).join(", ")}.`);
  return Object.entries(section as Section).reduce<Record<string, number>[]>(
    (combinations, [key, values]) => {
      const name = WEIGHTS[key] ?? key;
      if (!Object.values(WEIGHTS).includes(name))
        fail(file, `"weights" has the unknown key "${key}"; it may have ${Object.keys(WEIGHTS).join(", ")}.`);
      const numbers = list(file, `weights.${key}`, [values].flat()) as number[];
      if (!numbers.every((value) => typeof value === "number" && value >= 0))
        fail(file, `"weights.${key}" must be numbers from 0.`);
      return combinations.flatMap((before) => numbers.map((value) => ({ ...before, [name]: value })));
    },
    [{}],
  );
}

function list(file: string, key: string, value: unknown): unknown[] {
  if (!Array.isArray(value) || value.length === 0) return fail(file, `"${key}" must be a list with one entry or more.`);
  return value;
}

function fail(file: string, fault: string): never {
  throw new SlimViTError("bad-option", `${file}: ${fault}`);
}
