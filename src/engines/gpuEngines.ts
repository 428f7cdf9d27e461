/**
 * The engines on WebGPU, in a file of their own, dist/webgpu.js: pages that run without do not download them, and
 * bundlers do not copy onnxruntime-web's WebGPU build, 26 MB, into every application that has the package.
 */
export { openFastest } from "./measure.ts";
export { openOnnxWebgpu } from "./onnx/webgpu.ts";
export { reopen } from "./recovery.ts";
export { openTfjs } from "./tfjs-webgpu/engine.ts";
