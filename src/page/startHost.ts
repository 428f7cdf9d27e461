/** Starts the host that answers a model's calls: in a worker, or where there is none, in this thread. */
import type { Remote } from "comlink";
import { SlimViTError } from "../errors.ts";
import { type CallId, type Host, type ModelHost, WORKER_NAME } from "../protocol.ts";
import { advise } from "./advise.ts";
import { part } from "./parts.ts";
import { spawnWorker } from "./startWorker.ts";

export type AnyHost = Host | Remote<Host>;

/** The load's number in the worker; calls count from 1. */
export const LOAD: CallId = 0;

export interface HostOptions {
  workerUrl?: string | URL | object;
  /** Makes a host in this thread. */
  host?: () => ModelHost;
}

/**
 * Node, Bun and Deno run the model in the process itself: their workers are not a browser's, where they have any, and other
 * packages set a global `Worker` of their own. Electron's pages, which also have a `process`, are browsers.
 */
export function runsHere({ host }: HostOptions): boolean {
  const { versions, type } = (globalThis.process ?? {}) as { versions?: { node?: string }; type?: string };
  const isServer = versions?.node !== undefined && type !== "renderer";
  return !!host || isServer || typeof Worker === "undefined";
}

/** @throws SlimViTError `unsupported` where neither works */
export async function startHost<T>(
  options: HostOptions,
  onLost: () => void,
  call: (host: AnyHost) => Promise<T>,
): Promise<{ host: AnyHost; answer: Promise<T>; close(): void }> {
  if (isOurWorker()) {
    const fault = "The app's own script runs in SlimViT's worker.";
    throw new SlimViTError("unsupported", await advise(({ sameFile }) => sameFile(), fault));
  }
  if (!runsHere(options)) return spawnWorker(options.workerUrl, onLost, call);
  const host = (options.host ?? (await part(import("../worker/worker.ts"))).createHost)() as Host;
  return {
    host,
    answer: call(host),
    close() {
      host.abort(LOAD);
      host.dispose();
    },
  };
}

function isOurWorker(): boolean {
  const { name } = globalThis as { name?: string };
  return typeof WorkerGlobalScope !== "undefined" && globalThis instanceof WorkerGlobalScope && name === WORKER_NAME;
}
