/** Starts the module worker in the way that this page's bundler, origin and CSP allow, and notices when it ends. */
import { type Remote, releaseProxy, wrap } from "comlink";
import { messageOf, SlimViTError } from "../errors.ts";
import { carryErrors } from "../errorTransfer.ts";
import { type Host, WORKER_NAME } from "../protocol.ts";
import { trustScript } from "../trustedScript.ts";
import { advise } from "./advise.ts";
import { isAddress, isOfThisOrigin } from "./scripts.ts";

export interface SpawnedWorker<T> {
  host: Remote<Host>;
  /** to the first call */
  answer: Promise<T>;
  /** Stops it at once. Idempotent. */
  close(): void;
}

/** Milliseconds after which a script that neither answers nor fails is given up. */
const HELLO_MS = 15_000;

/**
 * @param workerUrl where the user serves worker.js; tried alone when given. A TrustedScriptURL is passed on as it is.
 * @param onLost called once if the worker ends before `close`
 * @param call the first one, sent along with the greeting; once more to each worker that is tried
 * @throws SlimViTError `unsupported` naming what was tried
 */
export async function spawnWorker<T>(
  workerUrl: string | URL | object | undefined,
  onLost: () => void,
  call: (host: Remote<Host>) => Promise<T>,
): Promise<SpawnedWorker<T>> {
  carryErrors();
  const failures: string[] = [];
  for (const [name, start] of workerUrl ? givenUrl(workerUrl) : WAYS) {
    try {
      const worker = await start();
      if (worker) return await introduce(worker, onLost, call);
    } catch (error) {
      failures.push(`${name}: ${messageOf(error)}`);
    }
  }
  const advice = await advise(({ workerAdvice }) => workerAdvice(failures), "");
  throw new SlimViTError("unsupported", `The worker did not start (${failures.join("; ")}). ${advice}`);
}

/** The address of a package that was installed or is served as it was published. */
const UNBUNDLED = /\/slimvit(@[^/]*)?\/dist\/index\.js$/;

/** `start` returns undefined where the way does not exist. */
type Way = [name: string, start: () => Worker | undefined | Promise<Worker | undefined>];

const OPTIONS = { type: "module", name: WORKER_NAME } as const;

const WAYS: Way[] = [
  // Without a bundler: the package's own folder, in node_modules or on a CDN.
  [
    "worker.js beside the package",
    () =>
      isAddress(import.meta.url) && UNBUNDLED.test(import.meta.url)
        ? at(new URL("worker.js", import.meta.url).href)
        : undefined,
  ],
  // webpack, Rspack, Turbopack and Parcel write chunks that only they themselves can load, but know this form of a
  // worker. It has to stand here as it is. They replace import.meta.url by a file's address, hence the condition.
  [
    "worker.js as the bundler made it",
    () => {
      if (!import.meta.url || isAddress(import.meta.url)) return undefined;
      return new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "slimvit" });
    },
  ],
  // Bundlers that write ES modules (vite, rollup, esbuild, Angular) make a chunk of what is imported dynamically.
  // worker.js imports nothing, so the chunk is a worker's script, and it knows its own address.
  [
    "worker.js as a chunk",
    async () => {
      const { url } = await import("../worker/worker.ts");
      return isAddress(url) && url !== import.meta.url ? at(url) : undefined;
    },
  ],
  // All in one file: the worker's source, out of this file. It is no module, since pages of a sandboxed frame or of a disk
  // start no module from a blob.
  ["an inline copy", async () => fromBlob((await import("../worker/worker.ts")).source(), { name: WORKER_NAME })],
];

/** A worker from an address that may be another origin's, whose scripts only a blob of this origin can import. */
function at(url: string): Worker {
  return isOfThisOrigin(url) ? new Worker(trustScript(url), OPTIONS) : fromBlob(`import ${JSON.stringify(url)};`);
}

function givenUrl(url: string | URL | object): Way[] {
  return [[String(url), () => new Worker(url as URL, OPTIONS)]]; // a TrustedScriptURL stays one
}

function fromBlob(source: string, options: WorkerOptions = OPTIONS): Worker {
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  setTimeout(() => URL.revokeObjectURL(url), HELLO_MS); // the worker has read it by then
  return new Worker(trustScript(url), options);
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
    answer.catch(() => {}); // handled once there is a worker
  });
}
