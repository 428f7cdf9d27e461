/** The worker's entry. Where there are no workers, as in Node, the caller imports it and takes a host of its own. */
import { expose } from "comlink";
import { findInstalled } from "../engines/installedPackages.ts";
import { carryErrors } from "../errorTransfer.ts";
import { createHost, type Host } from "./host.ts";

export { createHost };

/** comlink alone would let a message read, set and call anything that can be reached from the host, `constructor` too. */
const METHODS: readonly unknown[] = ["hello", "load", "run", "abort", "dispose"] satisfies (keyof Host)[];

function isCall({ data }: MessageEvent): boolean {
  return (
    data?.type === "RELEASE" || (data?.type === "APPLY" && data.path?.length === 1 && METHODS.includes(data.path[0]))
  );
}

if (typeof WorkerGlobalScope !== "undefined" && globalThis instanceof WorkerGlobalScope) {
  // Where a bundler has put onnxruntime-web into this file, as vite does, its threads are workers of this file too.
  if (self.name === "em-pthread") void findInstalled();
  else {
    carryErrors();
    addEventListener("message", (event) => void (isCall(event) || event.stopImmediatePropagation()));
    expose(createHost());
  }
}
