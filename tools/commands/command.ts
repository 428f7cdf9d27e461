/** What every command of `slimvit` shares: its name, its arguments, its options, and --json. */
import { Command } from "commander";
import { addOptions, type OptionSpecs, type OptionsOf } from "../options/spec.ts";
import { printJson } from "../shared/terminal.ts";

export type Argument = [name: string, help: string];

export const MODEL: Argument = ["<model>", "model folder, or FOLDER#NAME for one of its variants"];
export const MODELS: Argument = ["<models...>", "model folders, or FOLDER#NAME for single variants"];

export function newCommand(name: string, description: string, args: Argument[], specs: OptionSpecs): Command {
  const command = new Command(name).description(description);
  for (const [argument, help] of args) command.argument(argument, help);
  return addOptions(command, specs).option("--json", "print one JSON value on stdout");
}

/**
 * A command with one argument.
 *
 * @param run with what was given on the command line, read by `specs`; its result is printed with --json
 */
export function simpleCommand<S extends OptionSpecs>(
  name: string,
  description: string,
  argument: Argument,
  specs: S,
  run: (source: string, options: OptionsOf<S>) => unknown,
): Command {
  return newCommand(name, description, [argument], specs).action(async (source: string, options: OptionsOf<S>) =>
    finish(options, await run(source, options)),
  );
}

/** The last line of every command: with --json its result is the whole of stdout. */
export function finish({ json }: { json?: boolean }, result: unknown): void {
  if (json) printJson(result);
}
