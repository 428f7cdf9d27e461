/** Starts the module worker by whichever way this page's bundler, origin and CSP allow, and notices when it ends. */
import { type Remote, releaseProxy, wrap } from "comlink";
import { messageOf, SlimViTError } from "../errors.ts";
import { carryErrors } from "../errorTransfer.ts";
import type { Host } from "../protocol.ts";

export interface SpawnedWorker<T> {
  host: Remote<Host>;
  /** to the first call */
  answer: Promise<T>;
  /** Stops it at once. Idempotent. */
  close(): void;
}

/**
 * In Node the model runs in the process itself. A `Worker` there is no browser's: a library may have set it for its own
 * ends. Deno, Bun and Electron have real ones.
 */
export function needsNoWorker(): boolean {
  const versions: Record<string, string | undefined> = globalThis.process?.versions ?? {};
  const isNode = versions.node && !versions.deno && !versions.bun && !versions.electron;
  return typeof Worker === "undefined" || !!isNode;
}

/** For a script that neither answers nor fails. */
const HELLO_MS = 15_000;

/**
 * @param workerUrl where the user serves worker.js; tried alone when given
 * @param onLost called once if the worker ends before `close`
 * @param call the first one, sent along with the greeting; once more to each worker that is tried
 * @throws SlimViTError `unsupported` naming what was tried
 */
export async function spawnWorker<T>(
  workerUrl: string | URL | undefined,
  onLost: () => void,
  call: (host: Remote<Host>) => Promise<T>,
): Promise<SpawnedWorker<T>> {
  carryErrors();
  const failures: string[] = [];
  for (const [name, start] of workerUrl ? givenUrl(workerUrl) : LADDER) {
    try {
      return await introduce(await start(), onLost, call);
    } catch (error) {
      failures.push(`${name}: ${messageOf(error)}`);
    }
  }
  throw new SlimViTError(
    "unsupported",
    `The worker did not start (${failures.join("; ")}). ` +
      "Serve the package's worker.js from your own origin and pass its address as workerUrl.",
  );
}

type Rung = [name: string, start: () => Worker | Promise<Worker>];

const LADDER: Rung[] = [
  [
    "worker.js beside the package",
    // This literal form is what vite and webpack look for.
    () => new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "slimvit" }),
  ],
  // For packages served by another origin; not the literal form, of which bundlers would make a second copy.
  [
    "a blob that imports it",
    () => fromBlob(`import ${JSON.stringify(import.meta.url.replace(/[^/]*$/, "worker.js"))};`),
  ],
  ["an inline copy", async () => fromBlob((await import("./worker-inline.js")).default)],
];

function givenUrl(url: string | URL): Rung[] {
  return [[String(url), () => new Worker(url, { type: "module", name: "slimvit" })]];
}

function fromBlob(source: string): Worker {
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(url, { type: "module", name: "slimvit" });
  setTimeout(() => URL.revokeObjectURL(url), HELLO_MS); // it has been read by then
  return worker;
}

/** Resolves when the worker has answered. A script that is missing or refused fires `error` and answers nothing. */
function introduce<T>(
  worker: Worker,
  onLost: () => void,
  call: (host: Remote<Host>) => Promise<T>,
): Promise<SpawnedWorker<T>> {
  const host = wrap<Host>(worker);
  const lock = `slimvit-${Math.random()}`;
  const watch = new AbortController();
  const close = () => {
    if (watch.signal.aborted) return;
    watch.abort();
    worker.terminate();
    // comlink's registry holds the worker, whose listeners hold the host: neither would ever be collected. Not at once,
    // since calls that this ends still tell the host of their abort.
    setTimeout(() => host[releaseProxy]());
  };
  return new Promise((resolve, reject) => {
    const end = (error: Error) => {
      clearTimeout(timer);
      if (watch.signal.aborted) return;
      close();
      reject(error); // without effect on a worker that has answered …
      onLostOnceAnswered(); // … and that is lost now
    };
    let onLostOnceAnswered = () => {};
    const timer = setTimeout(() => end(new Error("it did not answer")), HELLO_MS);
    worker.addEventListener("error", (event) => {
      event.preventDefault();
      end(new Error(event.message || "it did not load"));
    });
    host.hello(lock).then(() => {
      clearTimeout(timer);
      onLostOnceAnswered = onLost;
      // A worker that is terminated or crashes fires nothing, but lets go of its lock.
      navigator.locks?.request(lock, { signal: watch.signal }, () => end(new Error("it stopped"))).catch(() => {});
      resolve({ host, answer, close });
    }, end);
    const answer = call(host);
    answer.catch(() => {}); // heard once there is a worker
  });
}
