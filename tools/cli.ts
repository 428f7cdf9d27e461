/** The `slimvit` command: one stage a subcommand. Exit 0, 1 (failed, one clear sentence), 2 (usage). */
import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import type { EngineName } from "../src/engines/engine.ts";
import { messageOf, SlimViTError } from "../src/errors.ts";
import type { WeightsDtype } from "../src/format/model.ts";
import type { FinetuneOptions } from "./finetune.ts";
import { MASK_MODES, PATCH_FORMS } from "./lib/masks.ts";
import {
  addDataOptions,
  addTrainOptions,
  count,
  fraction,
  natural,
  number,
  positive,
  RECIPE_DEFAULTS,
  type TrainOptions,
} from "./lib/recipe.ts";
import { printJson, say } from "./lib/terminal.ts";
import toolsPackage from "./package.json" with { type: "json" };
import { SEARCH_DEFAULTS, type SearchOptions } from "./search.ts";

const ENGINES: (EngineName | "auto")[] = ["auto", "simd", "onnx-wasm", "reference"];
const DTYPES: WeightsDtype[] = ["f32", "f16", "int8"];

// Each stage's module is imported when its command runs: `inspect` need not load TensorFlow.js.
const program = new Command("slimvit")
  .description("Slims vision transformers: import, search, compress, retrain, export, measure.")
  .version(toolsPackage.version)
  .showHelpAfterError("(slimvit --help shows the commands, slimvit COMMAND --help their options)");

function command(name: string, description: string, args: [string, string][]): Command {
  const sub = program.command(name).description(description);
  for (const [arg, what] of args) sub.argument(arg, what);
  return sub.option("--json", "one JSON value on stdout").option("--seed <n>", "of everything random", natural);
}

const model: [string, string] = ["<model>", "model folder"];

command("import", "timm or Hugging Face checkpoint → dense model folder", [
  ["<source>", ".safetensors file, or folder with config.json"],
])
  .requiredOption("-o, --out <folder>", "output folder")
  .option("--labels <file>", "one line a class: id TAB name")
  .option("--name <name>", "what the model is called")
  .option("--heads <n>", "attention heads", count)
  .option("--image-size <size>", "SIDE or HEIGHTxWIDTH in pixels", size)
  .option("--mean <r,g,b>", "of RGB in 0..1", triple)
  .option("--std <r,g,b>", "of RGB in 0..1", triple)
  .option("--eps <eps>", "of LayerNorm", positive)
  .option("--license <id>", "SPDX identifier")
  .option("--force", "replace the output folder")
  .action(async (source, options) => {
    const { importModel } = await import("./import.ts");
    finish(options, importModel(source, options));
  });

addTrainOptions(
  program
    .command("search")
    .description("train soft masks jointly with the weights")
    .argument(...model)
    .option("--json", "one JSON value on stdout"),
  {
    ...RECIPE_DEFAULTS,
    weightDecay: 1e-3,
    schedule: "constant",
  },
)
  .addOption(
    new Option("--masks <mode>", "what an attention mask is shared by")
      .choices(MASK_MODES)
      .default(SEARCH_DEFAULTS.masks),
  )
  .option("--w-attn <w>", "weight of the attention masks' L1; 0 freezes them", number, SEARCH_DEFAULTS.wAttn)
  .option("--w-mlp <w>", "weight of the MLP masks' L1; 0 freezes them", number, SEARCH_DEFAULTS.wMlp)
  .option("--w-patch <w>", "weight of the patch masks' L1; 0 freezes them", number, SEARCH_DEFAULTS.wPatch)
  .option("--lr-mask <rate>", "AdamW's rate for the masks", positive, SEARCH_DEFAULTS.lrMask)
  .option(
    "--lr-mask-patch <rate>",
    "AdamW's rate for the patch masks, which start where tanh is flat",
    positive,
    SEARCH_DEFAULTS.lrMaskPatch,
  )
  .addOption(
    new Option(
      "--patch-form <form>",
      "how patch masks act: tanh ζ on the norms' outputs, as the reference, or on attention scores",
    )
      .choices(PATCH_FORMS)
      .default(SEARCH_DEFAULTS.patchForm),
  )
  .addOption(
    new Option("--tokens <rule>", "how the score form nests keep-lists")
      .choices(["union", "intersect"])
      .default("union"),
  )
  .option("--zeta-decay", "decay masks like weights, as the reference does")
  .option("--masks-only", "train masks and norms, keep the other weights")
  .action(async (source: string, options: SearchOptions & { json?: boolean }) => {
    const { search } = await import("./search.ts");
    const { history: _, ...report } = await search(source, options);
    finish(options, report);
  });

command("compress", "searched masks → physically slim model", [["<search>", "output folder of slimvit search"]])
  .requiredOption("-o, --out <folder>", "output folder")
  .option("--attn <budget>", "share of attention channels (or heads) to keep", fraction)
  .option("--mlp <budget>", "share of MLP units to keep", fraction)
  .option("--patch <budget>", "share of tokens over all blocks to keep", fraction)
  .option("--macs <share>", "instead of three budgets: share of the dense MACs, split by importance", fraction)
  .addOption(
    new Option("--tokens <rule>", "a shallow block keeps what a deeper one needs; or dropped is dropped")
      .choices(["union", "intersect"])
      .default("union"),
  )
  .option("--absolute", "rank by |ζ| instead of signed ζ")
  .option("--name <name>", "what the model is called")
  .option("--force", "replace the output folder")
  .action(async (source, options) => {
    const { compress } = await import("./compress.ts");
    finish(options, compress(source, options));
  });

addTrainOptions(
  program
    .command("retrain")
    .description("train the slim arithmetic itself")
    .argument(...model)
    .option("--json", "one JSON value on stdout"),
  RECIPE_DEFAULTS,
).action(async (source: string, options: TrainOptions & { json?: boolean }) => {
  const { retrain } = await import("./retrain.ts");
  const { history: _, ...report } = await retrain(source, options);
  finish(options, report);
});

addTrainOptions(
  program
    .command("finetune")
    .description("new head for the data's classes")
    .argument(...model)
    .option("--json", "one JSON value on stdout"),
  {
    ...RECIPE_DEFAULTS,
    alpha: 0.5,
  },
)
  .option(
    "--image-size <size>",
    "SIDE or HEIGHTxWIDTH in pixels; position embeddings and keep-lists are resampled",
    size,
  )
  .action(async (source: string, options: FinetuneOptions & { json?: boolean }) => {
    const { finetune } = await import("./finetune.ts");
    const { history: _, ...report } = await finetune(source, options);
    finish(options, report);
  });

command("export", "weights for shipping", [model])
  .requiredOption("-o, --out <folder>", "output folder")
  .requiredOption("--dtype <list>", `of ${DTYPES.join(", ")}, separated by commas`, list(DTYPES))
  .option("--onnx", "write a standalone model.onnx too")
  .option("--name <name>", "what the model is called; default the output folder's name")
  .option("--force", "replace the output folder")
  .action(async (source, options) => {
    const { exportModel } = await import("./export.ts");
    finish(options, exportModel(source, options));
  });

command("inspect", "parameters, MACs, widths, tokens", [model]).action(async (source, options) => {
  const { inspect } = await import("./inspect.ts");
  const { inspection, text } = inspect(source);
  if (!options.json) process.stdout.write(`${text}\n`);
  finish(options, inspection);
});

addDataOptions(withEngine(command("eval", "top-1 and top-5", [model])), "all")
  .option("--limit <n>", "measure on n pictures spread over the data", count)
  .option("--record", "write the figures into the model's manifest and card")
  .action(async (source, options) => {
    const { evaluate } = await import("./eval.ts");
    const report = await evaluate(source, options);
    if (!options.json)
      process.stdout.write(
        `top-1 ${(100 * report.top1).toFixed(2)} %  top-5 ${(100 * report.top5).toFixed(2)} %  n ${report.n}\n`,
      );
    finish(options, report);
  });

withEngine(command("run", "classify pictures", [model, ["<images...>", "picture files"]]))
  .option("--top-k <n>", "classes to print", count, 5)
  .action(async (source, files, options) => {
    const { runFiles } = await import("./eval.ts");
    const reports = await runFiles(source, files, options);
    if (!options.json) {
      for (const { file, classes, latencyMs } of reports) {
        process.stdout.write(`${file}  ${latencyMs.total.toFixed(0)} ms\n`);
        for (const { label, score } of classes)
          process.stdout.write(`  ${(100 * score).toFixed(1).padStart(5)} %  ${label}\n`);
      }
    }
    finish(options, reports);
  });

command("bench", "milliseconds an image in a real headless browser", [["<models...>", "model folders"]])
  .option("--engine <list>", "separated by commas", list(ENGINES.slice(1) as EngineName[]), ["onnx-wasm"])
  .option("--dtype <list>", "separated by commas", list(DTYPES), ["f32"])
  .option("--threads <list>", "separated by commas", (text: string) => text.split(",").map(count), [1])
  .option("--rounds <n>", "timed runs of each", count, 30)
  .action(async (sources, options) => {
    const { bench, benchTable } = await import("./bench.ts");
    const rows = await bench(sources, options);
    if (!options.json) process.stdout.write(`${benchTable(rows)}\n`);
    finish(options, rows);
  });

function withEngine(sub: Command): Command {
  return sub
    .addOption(new Option("--engine <name>", "of the runtime").choices(ENGINES).default("auto"))
    .addOption(new Option("--dtype <dtype>", "weights to use; default the most exact").choices(DTYPES))
    .option("--threads <n>", "of the engine", count, 1);
}

function finish(options: { json?: boolean }, result: unknown): void {
  if (options.json) printJson(result);
}

function size(text: string): [number, number] {
  const match = text.match(/^(\d+)(?:[x×](\d+))?$/);
  if (!match) throw new InvalidArgumentError("expected SIDE or HEIGHTxWIDTH.");
  return [Number(match[1]), Number(match[2] ?? match[1])];
}

function triple(text: string): [number, number, number] {
  const values = text.split(",").map(Number);
  if (values.length !== 3 || !values.every(Number.isFinite))
    throw new InvalidArgumentError("expected three numbers separated by commas.");
  return values as [number, number, number];
}

function list<T extends string>(known: T[]): (text: string) => T[] {
  return (text) => {
    const items = text.split(",") as T[];
    if (!items.every((item) => known.includes(item)))
      throw new InvalidArgumentError(`expected ${known.join(", ")}, separated by commas.`);
    return items;
  };
}

async function main(): Promise<void> {
  const strict = (sub: Command) => sub.exitOverride();
  strict(program);
  program.commands.forEach(strict);
  try {
    await program.parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? 0 : 2;
    } else if (error instanceof SlimViTError) {
      say(`slimvit: ${error.message}`);
      process.exitCode = error.code === "bad-option" ? 2 : 1;
    } else {
      say(`slimvit: ${messageOf(error)}`);
      process.exitCode = 1;
    }
  }
  // The ONNX runtime's threads and TensorFlow's would keep the process alive.
  process.stdout.write("", () => process.exit());
}

await main();
