/** Options by name: one that is misspelt is refused, because an option without effect is found much later. */
import { SlimViTError } from "../errors.ts";
import type {
  ClassifyAllOptions,
  ClassifyOptions,
  EmbedAllOptions,
  EmbedOptions,
  LoadOptions,
  SaveOptions,
  StreamOptions,
  TeachOptions,
} from "../protocol.ts";
import { advise } from "./advise.ts";

/** Every name of an options type, so that a new option cannot be forgotten here. */
type Names<T> = Record<keyof Required<T>, true>;

const LOAD: Names<LoadOptions> = {
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
const EMBED: Names<EmbedOptions> = { signal: true, region: true };
const CLASSIFY: Names<ClassifyOptions> = {
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
const STREAM: Names<StreamOptions> = { ...CLASSIFY, latencyMs: true, onVariant: true };
const CLASSIFY_ALL: Names<ClassifyAllOptions> = { ...CLASSIFY, concurrency: true, onProgress: true };

const EMBED_ALL: Names<EmbedAllOptions> = { ...EMBED, concurrency: true, onProgress: true };
const TEACH: Names<TeachOptions> = { falseRejection: true, onProgress: true, signal: true };
const SAVE: Names<SaveOptions> = { name: true, embeddings: true };

const NAMES = {
  load: LOAD,
  embed: EMBED,
  classify: CLASSIFY,
  stream: STREAM,
  classifyAll: CLASSIFY_ALL,
  embedAll: EMBED_ALL,
  teach: TEACH,
  forget: TEACH,
  save: SAVE,
} satisfies Record<string, Record<string, true>>;

/**
 * Checks at once, so that a call with good options reads its picture before it returns.
 *
 * @returns for options that are no object, and for a name that `call` does not know, a promise that rejects with
 * SlimViTError `bad-option`; else undefined
 */
export function checkOptions(call: keyof typeof NAMES, options: object): Promise<never> | undefined {
  if (typeof options !== "object" || options === null) {
    const message = `The options of ${call} are ${JSON.stringify(options)}; expected an object.`;
    return Promise.reject(new SlimViTError("bad-option", message));
  }
  const unknown = Object.keys(options).find((name) => !Object.hasOwn(NAMES[call], name));
  return unknown === undefined ? undefined : refuse(call, unknown);
}

async function refuse(call: keyof typeof NAMES, name: string): Promise<never> {
  const known = Object.keys(NAMES[call]);
  const advice = await advise(({ adviceOn }) => adviceOn(name, known), `expected one of ${known.join(", ")}.`);
  throw new SlimViTError("bad-option", `${call} has no option ${JSON.stringify(name)}; ${advice}`);
}
