/** The `slimvit` command: one stage a subcommand. Exit 0, 1 (failed, one clear sentence), 2 (usage). */
import { Command, CommanderError, Option } from "commander";
import type { EngineName } from "../src/engines/engine.ts";
import { messageOf, SlimViTError } from "../src/errors.ts";
import {
  addSlimOptions,
  DTYPES,
  ENGINES,
  IMAGE_SIZE,
  keepList,
  list,
  MODEL,
  newCommand,
  type StageName,
  size,
  stageCommand,
  withEngine,
} from "./commands/options.ts";
import { PATCH_ORDERS } from "./masks/patchOrders.ts";
import type { SearchOptions } from "./masks/search.ts";
import toolsPackage from "./package.json" with { type: "json" };
import { print, printJson, say } from "./shared/terminal.ts";
import type { FinetuneOptions } from "./training/finetune.ts";
import { count, natural, type TrainOptions } from "./training/options.ts";

// Each stage's module is imported when its command runs: `inspect` need not load TensorFlow.js.
const program = new Command("slimvit")
  .description("Slims vision transformers: import, search, compress, retrain, export, measure.")
  .version(toolsPackage.version)
  .showHelpAfterError("(slimvit --help shows the commands, slimvit COMMAND --help their options)");

const WEBGPU_ENGINES = ["tfjs-webgpu", "onnx-webgpu"];
const BENCH_ENGINES = [...ENGINES.slice(1), ...WEBGPU_ENGINES] as EngineName[];

function stage(name: StageName): Command {
  return add(stageCommand(name));
}

function command(name: string, description: string, args: [string, string][]): Command {
  return add(newCommand(name, description, args));
}

function add(sub: Command): Command {
  program.addCommand(sub.copyInheritedSettings(program));
  return sub;
}

stage("import").action(async (source, options) => {
  const { importModel } = await import("./checkpoints/import.ts");
  finish(options, importModel(source, options));
});

stage("search").action(async (source: string, options: SearchOptions & { json?: boolean }) => {
  const { search } = await import("./masks/search.ts");
  const { history: _, ...report } = await search(source, options);
  finish(options, report);
});

stage("compress").action(async (source, options) => {
  const { compress } = await import("./masks/compress.ts");
  finish(options, await compress(source, options));
});

command("thin", "fewer tokens, evenly spread over the picture, without data or search", [MODEL])
  .requiredOption("-o, --out <folder>", "output folder")
  .option(
    "--keep <list>",
    "BLOCK:PATCHES, e.g. 7:128,10:64: at most so many patches from that block (from 0) on; default as many as the model has",
    keepList,
  )
  .addOption(new Option("--order <order>", "which patches are the first ones").choices(PATCH_ORDERS).default("spread"))
  .option("--restore", "begin with every patch again, whatever the model has dropped")
  .addOption(
    new Option("--lists <model>", "take the keep-lists of this model instead").conflicts(["keep", "order", "restore"]),
  )
  .option(...IMAGE_SIZE, size)
  .option("--name <name>", "what the model is called")
  .option("--force", "replace the output folder")
  .action(async (source, options) => {
    const { thin } = await import("./masks/thin.ts");
    finish(options, thin(source, options));
  });

stage("retrain").action(async (source: string, options: TrainOptions & { json?: boolean }) => {
  const { retrain } = await import("./training/retrain.ts");
  const { history: _, ...report } = await retrain(source, options);
  finish(options, report);
});

stage("finetune").action(async (source: string, options: FinetuneOptions & { json?: boolean }) => {
  const { finetune } = await import("./training/finetune.ts");
  const { history: _, ...report } = await finetune(source, options);
  finish(options, report);
});

stage("export").action(async (source, options) => {
  const { exportModel } = await import("./models/export.ts");
  finish(options, await exportModel(source, options));
});

addSlimOptions(
  command("slim", "finetune, search, compress, retrain, export and eval in one resumable run", [
    ["<source>", "model folder, or a recipe: a .yaml file"],
  ]),
).action(async (source, options) => {
  const { slim } = await import("./recipes/slim.ts");
  finish(options, await slim(source, options));
});

command("sweep", "budgets × loss weights × seeds, each a run of slim; resumable", [
  ["<file>", "a recipe of slimvit slim with a section sweep: { budgets, weights, seeds }"],
])
  .option("-o, --out <folder>", "results, models and stages; default the file's out")
  .option("--jobs <n>", "processes at once, on this machine", count, 1)
  .addOption(new Option("--on <where>", "where the points run").choices(["local", "slurm"]).default("local"))
  .option("--sbatch <options>", 'further options of sbatch, e.g. "--partition=gpu --time=4:00:00"')
  .option("--task <n>", "run only this point: $SLURM_ARRAY_TASK_ID, $JOB_COMPLETION_INDEX", natural)
  .action(async (file: string, options) => {
    const [{ sweep }, { sweepTable }] = await Promise.all([
      import("./recipes/sweep.ts"),
      import("./report/sweepReport.ts"),
    ]);
    const report = await sweep(file, options);
    if (!options.json && "points" in report) print(sweepTable(report.points));
    finish(options, report);
  });

command("inspect", "parameters, MACs, widths, tokens", [["<models...>", "model folders"]])
  .option("--report <file>", "write an HTML page with charts, also of masks and losses where the folder has them")
  .option("--pictures <images...>", "draw attention maps on these pictures into the report, model under model")
  .action(async (sources: string[], options) => {
    const { inspect, writeReport } = await import("./models/inspect.ts");
    const inspected = sources.map(inspect);
    if (options.pictures && !options.report)
      throw new SlimViTError("bad-option", "inspect: --pictures are drawn into a report; give --report FILE.html.");
    if (options.report) await writeReport(sources, options.report, options.pictures);
    if (!options.json) print(inspected.map(({ text }) => text).join("\n\n"));
    const [first] = inspected;
    finish(options, sources.length === 1 ? first.inspection : inspected.map(({ inspection }) => inspection));
  });

command("set", "models with the same labels → a set, of which a page takes what its device can afford", [
  ["<models...>", "model folders with a recorded accuracy"],
])
  .requiredOption("-o, --out <folder>", "set.json and the members' folders")
  .option("--name <name>", "what the set is called; default the output folder's name")
  .option("--data <name>", "accuracy on this data, as slimvit eval --record names it; default what all have")
  .option("--split <split>", "… and on this split of it")
  .option("--in-place", "write set.json alone: the models lie in the output folder already")
  .option("--force", "replace the output")
  .action(async (sources: string[], options) => {
    const { makeSet } = await import("./models/set.ts");
    finish(options, makeSet(sources, options));
  });

stage("eval")
  .option("--unlabelled", "with --against: how often both models agree, whatever the data's classes")
  .action(async (source, options) => {
    const { agreeWith, evaluate } = await import("./evaluation/evaluate.ts");
    if (options.unlabelled) {
      const report = await agreeWith(source, options);
      if (!options.json)
        print(
          `agreement ${(100 * report.agreement).toFixed(2)} %  divergence ${report.divergence.toFixed(4)}  n ${report.n}`,
        );
      return finish(options, report);
    }
    const report = await evaluate(source, options);
    if (!options.json)
      print(`top-1 ${(100 * report.top1).toFixed(2)} %  top-5 ${(100 * report.top5).toFixed(2)} %  n ${report.n}`);
    finish(options, report);
  });

withEngine(command("run", "classify pictures", [MODEL, ["<images...>", "picture files"]]))
  .option("--top-k <n>", "classes to print", count, 5)
  .action(async (source, files, options) => {
    const { runFiles } = await import("./evaluation/evaluate.ts");
    const reports = await runFiles(source, files, options);
    if (!options.json) {
      for (const { file, classes, latencyMs } of reports) {
        print(`${file}  ${latencyMs.total.toFixed(0)} ms`);
        for (const { label, score } of classes) print(`  ${(100 * score).toFixed(1).padStart(5)} %  ${label}`);
      }
    }
    finish(options, reports);
  });

command(
  "bench",
  "milliseconds an image in a real headless browser; of engines on WebGPU: on this machine's GPU, in Node",
  [["<models...>", "model folders, random:deit-small and the like, or the one word kernels"]],
)
  .option("--engine <list>", "separated by commas", list(BENCH_ENGINES), ["onnx-wasm"])
  .option("--dtype <list>", "separated by commas", list(DTYPES), ["f32"])
  .option("--threads <list>", "separated by commas", (text: string) => text.split(",").map(count), [1])
  .option("--rounds <n>", "timed runs of each", count, 30)
  .action(async (sources: string[], options) => {
    if (sources.length === 1 && sources[0] === "kernels") {
      const { benchKernels, kernelsTable } = await import("./bench/benchKernels.ts");
      const rows = await benchKernels(options.rounds);
      if (!options.json) print(kernelsTable(rows));
      return finish(options, rows);
    }
    const isOnWebGpu = (engine: string) => WEBGPU_ENGINES.includes(engine);
    if (options.engine.some(isOnWebGpu)) {
      if (!options.engine.every(isOnWebGpu))
        throw new SlimViTError(
          "bad-option",
          "bench: engines on WebGPU are measured without a browser, the others in one; ask for one kind alone.",
        );
      const { benchGpu, gpuBenchTable } = await import("./bench/benchGpu.ts");
      const rows = await benchGpu(sources, options);
      if (!options.json) print(gpuBenchTable(rows));
      return finish(options, rows);
    }
    const { bench, benchTable } = await import("./bench/bench.ts");
    const rows = await bench(sources, options);
    if (!options.json) print(benchTable(rows));
    finish(options, rows);
  });

command("profile", "cost tables of this device, measured in a real headless browser", [
  ["[models...]", "model folders to hold the tables' prediction against"],
])
  .option("-o, --out <file>", "device.json")
  .option("--check", "print what is predicted of the models beside what is measured; exit 1 past 10 % of it")
  .option("--shape <model>", "whose dense shape is measured; default the first model's, else DeiT-Ti at 224 px")
  .addOption(new Option("--engine <name>", "that tells blocks apart").choices(["simd", "reference"]).default("simd"))
  .addOption(new Option("--dtype <dtype>", "of the weights").choices(DTYPES).default("f32"))
  .option("--threads <n>", "of the engine", count, 1)
  .option("--rounds <n>", "timed runs of each", count, 30)
  .action(async (sources, options) => {
    if (!options.out && !options.check)
      throw new SlimViTError("bad-option", "profile: give -o device.json, or --check and models, or both.");
    if (options.check && !sources.length)
      throw new SlimViTError("bad-option", "profile: --check needs models to hold the prediction against.");
    const { profileDevice, checkTable, CHECK_TOLERANCE } = await import("./bench/profile.ts");
    const report = await profileDevice(sources, options);
    if (!options.json && sources.length) print(checkTable(report.check));
    if (options.check && !report.check.every(({ error }) => Math.abs(error) <= CHECK_TOLERANCE)) process.exitCode = 1;
    finish(options, report);
  });

function finish(options: { json?: boolean }, result: unknown): void {
  if (options.json) printJson(result);
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
