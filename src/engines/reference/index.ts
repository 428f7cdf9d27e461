/** dist/engine-reference.js: the plain loops. */
import type { EngineChunk } from "../engine.ts";
import { openReference } from "./engine.ts";

export const engines: EngineChunk["engines"] = { reference: openReference };
