/** Workers that run the kernels' `help` on the shared memory until they are stopped. */
import { trustScript } from "../../trustedScript.ts";

export interface Helpers {
  terminate(): void;
}

interface Seed {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  plan: number;
  /** SYNC_EPOCH's address */
  epoch: number;
  index: number;
}

const START_MS = 5000;

/** The imports of the kernels. */
export function importsOf(memory: WebAssembly.Memory): WebAssembly.Imports {
  const words = new Int32Array(memory.buffer);
  return { env: { memory, wait: (at: number, seen: number) => void Atomics.wait(words, at >>> 2, seen) } };
}

const BODY = `
  const words = new Int32Array(memory.buffer);
  const wait = (at, seen) => void Atomics.wait(words, at >>> 2, seen);
  const { exports } = await WebAssembly.instantiate(module, { env: { memory, wait } });
  exports.start(plan, index);
  report();
  for (let seen; (seen = exports.help()) >= 0; ) wait(epoch, seen);
`;

const WEB_SOURCE = `onmessage = async ({ data: { module, memory, plan, epoch, index } }) => {
  const report = () => postMessage("ready");
  ${BODY.replace("await WebAssembly.instantiate(module", "new WebAssembly.Instance(module")}
};`;

// In a function of its own: `module` is a name of the script's in Bun and Deno.
const NODE_SOURCE = `(async ({ parentPort, workerData: { module, memory, plan, epoch, index } }) => {
  const report = () => parentPort.postMessage("ready");
  ${BODY}
})(require("node:worker_threads"));`;

type NodeThreads = typeof import("node:worker_threads");

/** Whether memory can be shared with workers. A page that is not isolated cannot do so. */
export function canShareMemory(): boolean {
  return typeof SharedArrayBuffer === "function" && globalThis.crossOriginIsolated !== false;
}

/**
 * @param count of workers, the main thread not among them
 * @returns undefined when one of them does not start, for instance under a Content-Security-Policy without
 * `worker-src blob:`
 */
export async function startHelpers(count: number, seed: Omit<Seed, "index">): Promise<Helpers | undefined> {
  const started: Helpers[] = [];
  const terminate = () => {
    for (const worker of started) worker.terminate();
  };
  try {
    await Promise.all(
      Array.from({ length: count }, (_, k) => startWorker({ ...seed, index: k + 1 }, (worker) => started.push(worker))),
    );
    return { terminate };
  } catch {
    terminate();
    return undefined;
  }
}

function startWorker(seed: Seed, created: (worker: Helpers) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no answer in ${START_MS} ms`)), START_MS);
    const ready = () => {
      clearTimeout(timer);
      resolve();
    };
    const failed = (error: unknown) => {
      clearTimeout(timer);
      reject(error);
    };
    try {
      const node = nodeThreads();
      if (node) {
        const worker = new node.Worker(NODE_SOURCE, { eval: true, workerData: seed });
        created(worker);
        worker.unref(); // an engine that was not disposed of does not keep the process alive
        worker.once("message", ready);
        worker.once("error", failed);
        return;
      }
      const url = URL.createObjectURL(new Blob([WEB_SOURCE], { type: "text/javascript" }));
      const worker = new Worker(trustScript(url));
      created(worker);
      worker.onmessage = () => {
        URL.revokeObjectURL(url);
        ready();
      };
      worker.onerror = failed;
      worker.postMessage(seed);
    } catch (error) {
      failed(error);
    }
  });
}

/**
 * Node's worker_threads, also where there is a global `Worker`: in Node it belongs to some package, and Bun and Deno
 * have both. The module comes from the process and is not imported, so that bundlers for browsers never see its name.
 * Node 20.16 and later support that.
 */
function nodeThreads(): NodeThreads | undefined {
  const isBrowser = typeof WorkerGlobalScope !== "undefined" || typeof document !== "undefined"; // Electron's pages are
  if (isBrowser || typeof process !== "object") return undefined;
  return process.getBuiltinModule?.("node:worker_threads");
}
