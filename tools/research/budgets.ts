/**
 * tsx tools/research/budgets.ts SEARCH --data D --macs 0.7,0.5 -o FOLDER: compares `compress --macs R` with three equal
 * budgets that leave as many MACs, from the same search, on val, not retrained. With --latency-ms 12,9 --profile
 * device.json it compares `compress --latency-ms T` with equal budgets of as many milliseconds by that profile.
 * Bisection finds the smallest equal budget that costs no less than the other model, so any remaining difference of cost
 * is in its favour. Prints a table, or one value with --json. FOLDER has the models and budgets.json.
 */
import { join } from "node:path";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { type Architecture, countMacs } from "../../src/format/model.ts";
import { newCommand } from "../commands/command.ts";
import { evaluate } from "../evaluation/evaluate.ts";
import { type CompressReport, compress } from "../masks/compress.ts";
import { predictMs, readProfile } from "../masks/latency.ts";
import { type BlockZeta, hardenMasks, type MaskMode, slimArchitecture, type TokenRule } from "../masks/masks.ts";
import { readMasks, readSearchOptions, ZETA_FILE } from "../masks/searched.ts";
import { interval } from "../models/card.ts";
import { architectureOf, claimOutput, readManifestFile, writeFileAtomic } from "../models/folders.ts";
import { TOKEN_RULES } from "../options/search.ts";
import { data, ENGINE_OPTIONS, FORCE, OUT } from "../options/shared.ts";
import { choice, flag, type OptionsOf, optional } from "../options/spec.ts";
import { count, positives as milliseconds, path, shares } from "../options/values.ts";
import { percent, printJson, say } from "../shared/terminal.ts";

/** Halvings of 0…1; no ranking has more than 2^40 units. */
const HALVINGS = 40;

const OPTIONS = {
  ...ENGINE_OPTIONS,
  ...data("val"),
  macs: optional("--macs <list>", "shares of the dense MACs", shares),
  latencyMs: optional("--latency-ms <list>", "milliseconds on the device of --profile", milliseconds),
  profile: optional("--profile <file>", "device.json of slimvit profile", path),
  out: OUT,
  tokens: choice("--tokens <rule>", "of the equal budgets; default the search's", TOKEN_RULES),
  absolute: flag("--absolute", "rank the equal budgets by |ζ|"),
  weights: optional("--weights <model>", "dense model whose weights are cut in place of the search's", path),
  limit: optional("--limit <n>", "measure on n pictures spread over the data", count),
  force: FORCE,
};

type Options = OptionsOf<typeof OPTIONS>;

interface Side {
  /** share of the dense MACs that is left */
  macsShare: number;
  /** with a profile */
  predictedMs?: number;
  top1: number;
  top5: number;
  out: string;
}

interface Row {
  /** share of the dense MACs that was asked for, or milliseconds */
  target: number;
  /** `compress --macs` or `--latency-ms` */
  importance: Side;
  /** the same budget for channels, units and tokens */
  equal: Side & { budget: number };
  n: number;
}

const command = newCommand(
  "budgets",
  "one target against equal budgets",
  [["<search>", "output folder of slimvit search"]],
  OPTIONS,
);

try {
  await main(command.parse().args[0], command.opts<Options>());
} catch (error) {
  say(`budgets: ${messageOf(error)}`);
  process.exitCode = 1;
}
process.stdout.write("", () => process.exit());

async function main(source: string, options: Options): Promise<void> {
  const { absolute, weights, profile, macs, latencyMs } = options;
  const targets = latencyMs ?? macs;
  if (!targets || (latencyMs && macs) || (latencyMs === undefined) !== (profile === undefined))
    throw new SlimViTError("bad-option", "give --macs, or --latency-ms with --profile.");
  claimOutput(options.out, options.force);
  const manifest = readManifestFile(source);
  const arch = architectureOf(manifest);
  const device = profile && readProfile(profile, arch);
  const costOf = (slim: Architecture) => (device ? predictMs(device, slim) : countMacs(slim, manifest.labels.length));
  const { mode, zetas } = readMasks(source, ZETA_FILE, manifest);
  const rule = options.tokens ?? readSearchOptions(source).tokens;
  const rows: Row[] = [];
  for (const target of [...targets].sort((a, b) => b - a)) {
    const at = (kind: string) => join(options.out, `${kind}-${Number((device ? target : 100 * target).toFixed(4))}`);
    const shared = { tokens: rule, absolute, weights, force: options.force };
    const asked = device ? { latencyMs: target, profile } : { macs: target };
    const byImportance = (await compress(source, { ...shared, ...asked, out: at("importance") })) as CompressReport;
    const least = costOf(readManifestFile(byImportance.out));
    const budget = equalBudget({ arch, mode, zetas, rule, absolute }, (slim) => costOf(slim) >= least);
    const equally = (await compress(source, {
      ...shared,
      ...{ attn: budget, mlp: budget, patch: budget },
      out: at("equal"),
    })) as CompressReport;
    const [a, b] = [await evaluate(byImportance.out, options), await evaluate(equally.out, options)];
    const side = ({ out, macsShare }: CompressReport, { top1, top5 }: typeof a): Side => ({
      ...{ macsShare, ...(device && { predictedMs: costOf(readManifestFile(out)) }), top1, top5, out },
    });
    rows.push({ target, importance: side(byImportance, a), equal: { ...side(equally, b), budget }, n: a.n });
  }
  const report = { search: manifest.name, data: options.data, split: options.split, tokens: rule, rows };
  writeFileAtomic(join(options.out, "budgets.json"), `${JSON.stringify(report, null, 2)}\n`);
  if (options.json) return printJson(report);
  process.stdout.write(`${table(rows)}\n`);
}

interface Ranked {
  arch: Architecture;
  mode: MaskMode;
  zetas: BlockZeta[];
  rule: TokenRule;
  absolute?: boolean;
}

/** The smallest budget whose model costs enough; costs hardly ever fall when the budget grows, MACs never. */
function equalBudget({ arch, zetas, ...options }: Ranked, isEnough: (slim: Architecture) => boolean): number {
  const enough = (budget: number) => {
    const { blocks } = hardenMasks(arch, zetas, { attn: budget, mlp: budget, patch: budget }, options);
    return isEnough(slimArchitecture(arch, blocks));
  };
  let [low, high] = [0, 1];
  for (let k = 0; k < HALVINGS; k++) {
    const middle = (low + high) / 2;
    if (enough(middle)) high = middle;
    else low = middle;
  }
  return high;
}

function table(rows: Row[]): string {
  const isTimed = rows.some(({ importance }) => importance.predictedMs !== undefined);
  const costs = (side: string) => (isTimed ? [`${side}: ms predicted`, "MACs"] : [`${side}: MACs`]);
  const head = [
    "asked",
    ...costs("by importance"),
    "top-1 (95 % interval)",
    "equal budgets",
    ...costs("equal"),
    "top-1",
    "gain",
  ];
  const points = (share: number) => `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(1)}`;
  const cost = ({ macsShare, predictedMs }: Side) => [
    ...(isTimed ? [predictedMs!.toFixed(2)] : []),
    percent(macsShare),
  ];
  const lines = rows.map(({ target, importance, equal, n }) => [
    isTimed ? `${target} ms` : percent(target),
    ...cost(importance),
    `${percent(importance.top1)} (${interval(importance.top1, n)})`,
    equal.budget.toFixed(4),
    ...cost(equal),
    `${percent(equal.top1)} (${interval(equal.top1, n)})`,
    points(importance.top1 - equal.top1),
  ]);
  const row = (cells: string[]) => `| ${cells.join(" | ")} |`;
  return [row(head), row(head.map(() => "---")), ...lines.map(row)].join("\n");
}
