/** The worker's entry. Where there are no workers, as in Node, the caller imports it and takes a host of its own. */
import { expose } from "comlink";
import { createHost } from "./host.ts";
import { carryErrors } from "./wire.ts";

export { createHost };

if (typeof WorkerGlobalScope !== "undefined" && globalThis instanceof WorkerGlobalScope) {
  carryErrors();
  expose(createHost());
}
