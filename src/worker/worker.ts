/** The worker's entry. In Node, where the model runs in the process itself, the page's part imports it and makes a host. */
import { expose } from "comlink";
import { findInstalled } from "../engines/installedPackages.ts";
import { carryErrors } from "../errorTransfer.ts";
import type { Host } from "../protocol.ts";
import { createHost } from "./host.ts";

export { createHost };

/** comlink alone would let a message read, set and call anything that can be reached from the host, even `constructor`. */
const METHODS: readonly unknown[] = ["hello", "load", "run", "abort", "dispose"] satisfies (keyof Host)[];

function isCall({ data }: MessageEvent): boolean {
  return (
    data?.type === "RELEASE" || (data?.type === "APPLY" && data.path?.length === 1 && METHODS.includes(data.path[0]))
  );
}

if (typeof WorkerGlobalScope !== "undefined" && globalThis instanceof WorkerGlobalScope) {
  // Where a bundler has put onnxruntime-web into this file, as vite does, this file is also the script of its threads.
  if (self.name === "em-pthread") void findInstalled();
  else {
    carryErrors();
    addEventListener("message", (event) => void (isCall(event) || event.stopImmediatePropagation()));
    expose(createHost());
  }
}
