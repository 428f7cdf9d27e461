/** Options by name: one that is misspelt is refused, because an option without effect is found much later. */
import { SlimViTError } from "../errors.ts";
import type { ClassifyAllOptions, ClassifyOptions, EmbedOptions, LoadOptions } from "../protocol.ts";

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
const CLASSIFY_ALL: Names<ClassifyAllOptions> = { ...CLASSIFY, concurrency: true, onProgress: true };

const NAMES: Record<"load" | "embed" | "classify" | "stream" | "classifyAll", Record<string, true>> = {
  load: LOAD,
  embed: EMBED,
  classify: CLASSIFY,
  stream: CLASSIFY,
  classifyAll: CLASSIFY_ALL,
};

/** @throws SlimViTError `bad-option` for options that are no object, and for a name that `call` does not know */
export function checkOptions(call: keyof typeof NAMES, options: object): void {
  if (typeof options !== "object" || options === null) {
    throw new SlimViTError("bad-option", `The options of ${call} are ${JSON.stringify(options)}; expected an object.`);
  }
  const known = Object.keys(NAMES[call]);
  for (const name of Object.keys(options)) {
    if (Object.hasOwn(NAMES[call], name)) continue;
    const meant = nearest(name, known);
    const advice = meant ? `did you mean ${meant}?` : `expected one of ${known.join(", ")}.`;
    throw new SlimViTError("bad-option", `${call} has no option ${JSON.stringify(name)}; ${advice}`);
  }
}

/** @returns the known name that is at most a third of its letters away, whatever the case */
function nearest(name: string, known: string[]): string | undefined {
  const ranked = known
    .map((candidate) => ({ candidate, edits: editDistance(name.toLowerCase(), candidate.toLowerCase()) }))
    .sort((a, b) => a.edits - b.edits);
  const [{ candidate, edits }] = ranked;
  return edits <= Math.ceil(candidate.length / 3) ? candidate : undefined;
}

/** Levenshtein's: letters to insert, delete or replace. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length];
}
