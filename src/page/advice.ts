/** What to do about rare faults. Part of dist/advice.js, which only pages with such a fault load. */
import { WORKER_NAME } from "../protocol.ts";

/** @param failures of each way to start a worker */
export function workerAdvice(failures: readonly string[]): string {
  if (failures.some((failure) => /TrustedScriptURL|Trusted Type/i.test(failure))) {
    return (
      `This page requires Trusted Types. Allow the policy "${WORKER_NAME}" in its Content-Security-Policy ` +
      `(trusted-types ${WORKER_NAME}), or pass as workerUrl a TrustedScriptURL of worker.js by a policy of your own.`
    );
  }
  return "Serve the package's worker.js from your own origin and pass its address as workerUrl.";
}

export const sameFile = () =>
  "The app's own script runs in the worker that SlimViT has started: the app's bundler put both into one file. " +
  "Serve the package's worker.js from your own origin and pass its address as workerUrl.";

export const noPicture = () =>
  "The image cannot be read: it has no pixels yet, or is none of the forms classify takes (a URL, a File or Blob, " +
  "a Response, an ArrayBuffer, an image, canvas, video or VideoFrame, or { data, width, height }).";

export const modelSources = () =>
  'its folder\'s URL, "hf:owner/name", "npm:name@version", a model package or a list of its files';

export const unreadable = () =>
  "The image is from another origin that does not allow its pixels to be read. Serve it with CORS headers and set crossorigin on the element.";

export const oneVariant = () =>
  'A head fits the features of one variant. Load the folder with variant: "NAME" to teach it, and teach another load for another variant.';

/** @param name of a file of ours, as the worker asks for it */
export const noFile = (name: string) =>
  `The package's ${name.replace("slimvit/", "")} has no file of its own: the app's bundler puts everything into one. ` +
  `Serve it yourself and pass engineUrls: { "${name}": "its URL" }.`;

/** @returns what to write instead of `name`: the nearest of the known names, or all of them */
export function adviceOn(name: string, known: string[]): string {
  const meant = nearest(name, known);
  return meant ? `did you mean ${meant}?` : `expected one of ${known.join(", ")}.`;
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
