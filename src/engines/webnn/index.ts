/** The engine on WebNN, in a file of its own, dist/engine-webnn.js: pages that run without do not download it. */
export { reopen } from "../recovery.ts";
export { openWebnn } from "./engine.ts";
