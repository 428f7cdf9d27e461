/**
 * The `slimvit` command: the list of its commands. Exit status 0, 1 (failed, with one clear sentence), 2 (usage) or 130
 * (stopped by Ctrl-C).
 */
import { Command, CommanderError } from "commander";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import toolsPackage from "../package.json" with { type: "json" };
import { INTERRUPTED } from "../shared/interrupt.ts";
import { say } from "../shared/terminal.ts";
import { benchCommand } from "./bench.ts";
import { classesCommand } from "./classes.ts";
import { compressCommand } from "./compress.ts";
import { elasticCommand } from "./elastic.ts";
import { evalCommand } from "./eval.ts";
import { exportCommand } from "./export.ts";
import { finetuneCommand } from "./finetune.ts";
import { importCommand } from "./import.ts";
import { inspectCommand } from "./inspect.ts";
import { mergeCommand } from "./merge.ts";
import { profileCommand } from "./profile.ts";
import { retrainCommand } from "./retrain.ts";
import { runCommand } from "./run.ts";
import { searchCommand } from "./search.ts";
import { slimCommand } from "./slim.ts";
import { sweepCommand } from "./sweep.ts";
import { teachCommand } from "./teach.ts";
import { thinCommand } from "./thin.ts";

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

/**
 * Runs one command line.
 *
 * @param args without the names of the interpreter and the script
 * @returns the exit status
 */
export async function runCommandLine(args: string[]): Promise<number> {
  const program = new Command("slimvit")
    .description("Makes vision transformers smaller and measures them.")
    .version(toolsPackage.version)
    .showHelpAfterError("(slimvit --help shows the commands, slimvit COMMAND --help their options)")
    .exitOverride();
  for (const make of COMMANDS) program.addCommand(make().copyInheritedSettings(program));
  process.exitCode = 0; // a command that fails in part sets it
  try {
    await program.parseAsync(args, { from: "user" });
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    say(`slimvit: ${messageOf(error)}`);
    return exitCodeOf(error);
  }
  return process.exitCode;
}

function exitCodeOf(error: unknown): number {
  if (!(error instanceof SlimViTError)) return 1;
  if (error.code === "aborted") return INTERRUPTED;
  return error.code === "bad-option" ? 2 : 1;
}
