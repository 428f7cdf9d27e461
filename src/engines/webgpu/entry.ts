/** dist/engine-webgpu.js: our own engine on WebGPU, with what measures it against the others and opens it again. */
export { openFastest } from "../measure.ts";
export { reopen } from "../recovery.ts";
export { openWebgpu } from "./engine.ts";
