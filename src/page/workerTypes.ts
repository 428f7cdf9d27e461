/** dist/worker.d.ts: the types of the package's worker.js for those who import it. */
import type { ModelHost } from "../protocol.ts";

/** Runs a model in the thread that calls it: `SlimViT.load(source, { host: createHost })`. */
export declare function createHost(): ModelHost;
