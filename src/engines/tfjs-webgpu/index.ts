/** dist/engine-tfjs.js: the engine on TensorFlow.js. */
import type { EngineChunk } from "../engine.ts";
import { openTfjs } from "./engine.ts";

export const engines: EngineChunk["engines"] = { "tfjs-webgpu": openTfjs };
