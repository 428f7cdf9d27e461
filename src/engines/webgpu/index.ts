/** dist/engine-webgpu.js: our own engine on WebGPU. */
import type { EngineChunk } from "../engine.ts";
import { openWebgpu } from "./engine.ts";

export const engines: EngineChunk["engines"] = { webgpu: openWebgpu };
