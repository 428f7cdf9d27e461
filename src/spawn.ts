/** Starts the module worker by whichever way this page's bundler, origin and CSP allow. */
import { type Remote, wrap } from "comlink";
import { SlimViTError } from "./errors.ts";
import type { Host } from "./host.ts";
import { carryErrors } from "./wire.ts";

export interface SpawnedWorker {
  host: Remote<Host>;
  worker: Worker;
}

const PING_MS = 15_000;
let errorsAreCarried = false;

/**
 * @param workerUrl where the user serves worker.js; tried alone when given
 * @throws SlimViTError `unsupported` naming what was tried
 */
export async function spawnWorker(workerUrl?: string | URL): Promise<SpawnedWorker> {
  if (!errorsAreCarried) carryErrors();
  errorsAreCarried = true;
  const rungs: [string, () => Worker | Promise<Worker>][] = workerUrl
    ? [[String(workerUrl), () => new Worker(workerUrl, { type: "module", name: "slimvit" })]]
    : [
        // This literal form is what vite and webpack look for.
        [
          "worker.js beside the package",
          () => new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "slimvit" }),
        ],
        [
          "a blob that imports it",
          () => fromBlob(`import ${JSON.stringify(new URL("./worker.js", import.meta.url).href)};`),
        ],
        ["an inline copy", async () => fromBlob((await import("./worker-inline.js")).default)],
      ];
  const failures: string[] = [];
  for (const [name, start] of rungs) {
    try {
      const worker = await start();
      try {
        const host = wrap<Host>(worker);
        await answers(worker, host);
        return { host, worker };
      } catch (error) {
        worker.terminate();
        throw error;
      }
    } catch (error) {
      failures.push(`${name}: ${(error as Error).message}`);
    }
  }
  throw new SlimViTError(
    "unsupported",
    `The worker did not start (${failures.join("; ")}). Serve the package's worker.js from your own origin and pass its address as workerUrl.`,
  );
}

function fromBlob(source: string): Worker {
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  return new Worker(url, { type: "module", name: "slimvit" });
}

/** A script that is missing or refused fires `error` and answers nothing. */
function answers(worker: Worker, host: Remote<Host>): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("did not answer")), PING_MS);
    const settle = (finish: () => void) => {
      clearTimeout(timer);
      worker.removeEventListener("error", failed);
      finish();
    };
    const failed = (event: ErrorEvent) =>
      settle(() => reject(new Error(event.message || "the script could not be loaded")));
    worker.addEventListener("error", failed);
    host.ping().then(
      () => settle(resolve),
      (error) => settle(() => reject(error)),
    );
  });
}
