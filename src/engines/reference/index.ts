/** dist/engine-reference.js: the plain loops as an engine. */
import type { EngineChunk } from "../engine.ts";
import { openReference } from "./engine.ts";

export const engines: EngineChunk["engines"] = { reference: openReference };
