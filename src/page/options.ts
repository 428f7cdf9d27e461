/** The names of options. A misspelt option is refused, because an option without effect would be noticed much later. */
import { SlimViTError } from "../errors.ts";
import type { ClassifyOptions, EmbedOptions, LoadOptions } from "../protocol.ts";
import { advise } from "./advise.ts";

/** Every name of an options type, so that a new option cannot be forgotten here. */
export type Names<T> = Record<keyof Required<T>, true>;

export const LOAD: Names<LoadOptions> = {
  engine: true,
  dtype: true,
  variant: true,
  threads: true,
  cache: true,
  onProgress: true,
  signal: true,
  workerUrl: true,
  npmUrl: true,
  engines: true,
  host: true,
  engineUrls: true,
  webnn: true,
  latencyMs: true,
  onVariant: true,
};
export const EMBED: Names<EmbedOptions> = { signal: true, region: true };
export const CLASSIFY: Names<ClassifyOptions> = {
  ...EMBED,
  topK: true,
  scoreThreshold: true,
  allow: true,
  deny: true,
  classes: true,
  temperature: true,
  profile: true,
  explain: true,
};
/**
 * Checks at once, so that a call with good options reads its picture before it returns.
 *
 * @param known the call's options
 * @returns for options that are no object, and for a name that is not known, a promise that rejects with SlimViTError
 * `bad-option`; else undefined
 */
export function checkOptions(call: string, options: object, known: Record<string, true>): Promise<never> | undefined {
  if (typeof options !== "object" || options === null) {
    const message = `The options of ${call} are ${JSON.stringify(options)}; expected an object.`;
    return Promise.reject(new SlimViTError("bad-option", message));
  }
  const unknown = Object.keys(options).find((name) => !Object.hasOwn(known, name));
  return unknown === undefined ? undefined : refuse(call, unknown, Object.keys(known));
}

async function refuse(call: string, name: string, known: string[]): Promise<never> {
  const advice = await advise(({ adviceOn }) => adviceOn(name, known), `expected one of ${known.join(", ")}.`);
  throw new SlimViTError("bad-option", `${call} has no option ${JSON.stringify(name)}; ${advice}`);
}
