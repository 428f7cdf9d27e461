/**
 * The worker's entry. The build makes dist/worker.js from it: one function around all of this code. It runs in our
 * worker, or where there is none, as in Node, when the page's part asks for a host.
 */
import { expose } from "comlink";
import { carryErrors } from "../errorTransfer.ts";
import { type Host, WORKER_NAME } from "../protocol.ts";
import { createHost } from "./host.ts";

export { createHost };

/** The address of dist/worker.js, written by the build. */
export declare const url: string | undefined;
/** The source of a worker, for pages whose bundler has put worker.js into the same file. Written by the build. */
export declare function source(): string;

/** comlink alone would let a message read, set and call anything that can be reached from the host, even `constructor`. */
const METHODS: readonly unknown[] = [
  "hello",
  "load",
  "run",
  "teach",
  "use",
  "abort",
  "dispose",
] satisfies (keyof Host)[];

function isCall({ data }: MessageEvent): boolean {
  return (
    data?.type === "RELEASE" || (data?.type === "APPLY" && data.path?.length === 1 && METHODS.includes(data.path[0]))
  );
}

if (typeof WorkerGlobalScope !== "undefined" && globalThis instanceof WorkerGlobalScope && self.name === WORKER_NAME) {
  carryErrors();
  addEventListener("message", (event) => void (isCall(event) || event.stopImmediatePropagation()));
  expose(createHost());
}
