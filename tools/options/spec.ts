/**
 * One description of an option, for the two places where people give it: the command line and a section of a recipe file.
 * The types of a command's options follow from their descriptions.
 */
import { type Command, InvalidArgumentError, Option } from "commander";
import { SlimViTError } from "../../src/errors.ts";

/** `Given`: the option always has a value, because it is required or has a default. */
export interface OptionSpec<T = unknown, Given extends boolean = boolean> {
  /** as commander reads them, such as "-o, --out <folder>" */
  flags: string;
  help: string;
  /**
   * @param value text from the command line, or the value of a recipe's key
   * @param before what the same option was given before, on the same command line
   * @throws InvalidArgumentError saying what was expected
   */
  read(value: unknown, before?: T): T;
  initial?: T;
  /** the value where an option with an optional argument is given alone */
  alone?: T;
  choices?: readonly string[];
  /** attribute names of options that cannot be given with this one */
  conflicts?: string[];
  required: boolean;
  given?: Given;
}

/** Options by their attribute name: `lrHead` for --lr-head. */
// biome-ignore lint/suspicious/noExplicitAny: options of every type, whose `read` takes their own
export type OptionSpecs = Record<string, OptionSpec<any>>;

type GivenKeys<S extends OptionSpecs> = { [K in keyof S]: S[K] extends OptionSpec<infer _, true> ? K : never }[keyof S];
type TypeOf<O> = O extends OptionSpec<infer T> ? T : never;

/** The object that a command with these options receives. */
export type OptionsOf<S extends OptionSpecs> = { [K in GivenKeys<S>]: TypeOf<S[K]> } & {
  [K in Exclude<keyof S, GivenKeys<S>>]?: TypeOf<S[K]>;
} & { json?: boolean };

type Read<T> = (value: unknown, before?: T) => T;
type More<T> = Partial<Pick<OptionSpec<T>, "alone" | "conflicts">>;

/** An option that may be left out. */
export const optional = <T>(flags: string, help: string, read: Read<T>, more: More<T> = {}): OptionSpec<T, false> => ({
  ...{ flags, help, read, required: false },
  ...more,
});

/** An option with a default. */
export const withDefault = <T>(
  flags: string,
  help: string,
  read: Read<T>,
  initial: NoInfer<T>,
  more: More<T> = {},
): OptionSpec<T, true> => ({ ...{ flags, help, read, initial, required: false }, ...more });

export const required = <T>(flags: string, help: string, read: Read<T>): OptionSpec<T, true> => ({
  ...{ flags, help, read, required: true },
});

/** An option whose value is one of several words. */
export function choice<T extends string>(flags: string, help: string, words: readonly T[]): OptionSpec<T, false>;
export function choice<T extends string>(
  flags: string,
  help: string,
  words: readonly T[],
  initial: NoInfer<T>,
): OptionSpec<T, true>;
export function choice<T extends string>(flags: string, help: string, words: readonly T[], initial?: T) {
  const read = (value: unknown): T => {
    if (words.includes(value as T)) return value as T;
    throw new InvalidArgumentError(`expected one of ${words.join(", ")}.`);
  };
  return { ...{ flags, help, read, required: false, choices: words }, ...(initial !== undefined && { initial }) };
}

/** An option without an argument. */
export const flag = (flags: string, help: string): OptionSpec<boolean, false> => ({
  ...{ flags, help, required: false },
  read(value) {
    if (typeof value === "boolean") return value;
    throw new InvalidArgumentError("expected true or false.");
  },
});

/** Adds the options to a command line. */
export function addOptions(command: Command, specs: OptionSpecs): Command {
  for (const [name, spec] of Object.entries(specs)) {
    const option = new Option(spec.flags, spec.help);
    if (option.attributeName() !== name) throw new Error(`The option ${spec.flags} is described as "${name}".`);
    if (takesValue(spec)) option.argParser((text: string, before: unknown) => spec.read(text, before));
    if (spec.choices) option.choices(spec.choices).argParser((text: string) => spec.read(text));
    if (spec.initial !== undefined) option.default(spec.initial);
    if (spec.alone !== undefined) option.preset(String(spec.alone));
    if (spec.conflicts) option.conflicts(spec.conflicts);
    if (spec.required) option.makeOptionMandatory();
    command.addOption(option);
  }
  return command;
}

const takesValue = ({ flags }: OptionSpec) => /[<[]/.test(flags);

/** The long flag without its dashes: "lr-head". */
export const longName = ({ flags }: OptionSpec): string => flags.match(/--([\w-]+)/)![1];

/** Finds an option by its --long-name or its attribute name. */
export function findOption(specs: OptionSpecs, key: string): string | undefined {
  return Object.keys(specs).find((name) => name === key || longName(specs[name]) === key);
}

/**
 * Reads a recipe's section as a command's options, and adds the defaults.
 *
 * @param where what messages begin with
 * @throws SlimViTError `bad-option` naming the option and the fault
 */
export function readOptions<S extends OptionSpecs>(
  specs: S,
  section: Record<string, unknown>,
  where: string,
): OptionsOf<S> {
  const options: Record<string, unknown> = {};
  for (const [name, spec] of Object.entries(specs)) {
    const own = Object.keys(section).filter((key) => key === name || key === longName(spec));
    const key = own.at(-1);
    if (key === undefined) {
      if (spec.initial !== undefined) options[name] = spec.initial;
      if (spec.required)
        throw new SlimViTError("bad-option", `${where}: needs a value for "${longName(spec)}" (${spec.help}).`);
    } else {
      const value = readValue(spec, section[key], where);
      if (value !== undefined) options[name] = value;
    }
  }
  return options as OptionsOf<S>;
}

function readValue(spec: OptionSpec, value: unknown, where: string): unknown {
  if (value === undefined) return spec.initial;
  if (value === null) throw new SlimViTError("bad-option", `${where}: "${longName(spec)}" has no value.`);
  if (value === false) return takesValue(spec) ? spec.initial : undefined;
  if (value === true && spec.flags.includes("[")) return spec.alone ?? true;
  try {
    return spec.read(value);
  } catch (error) {
    if (!(error instanceof InvalidArgumentError)) throw error;
    const fault = `option '${spec.flags}' argument '${value}' is invalid: ${error.message}`;
    throw new SlimViTError("bad-option", `${where}: ${fault}`);
  }
}
