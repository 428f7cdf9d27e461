/** dist/engine-onnx.js: the engines on onnxruntime-web. */
import type { EngineChunk } from "../engine.ts";
import { openOnnx } from "./engine.ts";
import { openOnnxWebgpu } from "./webgpu.ts";

export const engines: EngineChunk["engines"] = { "onnx-wasm": openOnnx, "onnx-webgpu": openOnnxWebgpu };
