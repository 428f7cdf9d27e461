/**
 * The `slimvit` command: the list of its commands. Exit status 0, 1 (failed, with one clear sentence), 2 (usage) or 130
 * (stopped by Ctrl-C).
 */
import { Command, CommanderError } from "commander";
import { messageOf, SlimViTError } from "../src/errors.ts";
import { benchCommand } from "./commands/bench.ts";
import { classesCommand } from "./commands/classes.ts";
import { compressCommand } from "./commands/compress.ts";
import { elasticCommand } from "./commands/elastic.ts";
import { evalCommand } from "./commands/eval.ts";
import { exportCommand } from "./commands/export.ts";
import { finetuneCommand } from "./commands/finetune.ts";
import { importCommand } from "./commands/import.ts";
import { inspectCommand } from "./commands/inspect.ts";
import { mergeCommand } from "./commands/merge.ts";
import { profileCommand } from "./commands/profile.ts";
import { retrainCommand } from "./commands/retrain.ts";
import { runCommand } from "./commands/run.ts";
import { searchCommand } from "./commands/search.ts";
import { slimCommand } from "./commands/slim.ts";
import { sweepCommand } from "./commands/sweep.ts";
import { teachCommand } from "./commands/teach.ts";
import { thinCommand } from "./commands/thin.ts";
import toolsPackage from "./package.json" with { type: "json" };
import { INTERRUPTED } from "./shared/interrupt.ts";
import { say } from "./shared/terminal.ts";

/**
 * The commands in the order of `slimvit --help`. A command's code is loaded when it runs, so `inspect` needs no
 * TensorFlow.js.
 */
const COMMANDS = [
  importCommand,
  classesCommand,
  teachCommand,
  slimCommand,
  finetuneCommand,
  searchCommand,
  compressCommand,
  thinCommand,
  mergeCommand,
  retrainCommand,
  exportCommand,
  elasticCommand,
  sweepCommand,
  inspectCommand,
  evalCommand,
  runCommand,
  benchCommand,
  profileCommand,
];

async function main(): Promise<void> {
  const program = new Command("slimvit")
    .description("Makes vision transformers smaller and measures them.")
    .version(toolsPackage.version)
    .showHelpAfterError("(slimvit --help shows the commands, slimvit COMMAND --help their options)")
    .exitOverride();
  for (const make of COMMANDS) program.addCommand(make().copyInheritedSettings(program));
  try {
    await program.parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? 0 : 2;
    } else {
      say(`slimvit: ${messageOf(error)}`);
      process.exitCode = exitCodeOf(error);
    }
  }
  // The ONNX runtime's threads and TensorFlow's would keep the process alive.
  process.stdout.write("", () => process.exit());
}

function exitCodeOf(error: unknown): number {
  if (!(error instanceof SlimViTError)) return 1;
  if (error.code === "aborted") return INTERRUPTED;
  return error.code === "bad-option" ? 2 : 1;
}

await main();
