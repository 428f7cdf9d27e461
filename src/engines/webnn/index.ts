/** dist/engine-webnn.js: the engine on the Web Neural Network API. */
import type { EngineChunk } from "../engine.ts";
import { openWebnn } from "./engine.ts";

export const engines: EngineChunk["engines"] = { webnn: openWebnn };
