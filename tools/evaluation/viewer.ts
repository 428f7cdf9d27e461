/** How `eval` runs a model: on an engine in this process, or in a browser (inBrowser.ts). */
import { openEngine } from "../../src/engines/auto.ts";
import type { EngineName } from "../../src/engines/engine.ts";
import type { Model } from "../../src/format/model.ts";
import { evalPixels, type Picture } from "../data/data.ts";

/** An engine's outputs for one picture. */
export interface Outputs {
  logits: Float32Array;
  features: Float32Array;
}

/** A model that is open, in this process or in a browser. */
export interface Viewer {
  engine: EngineName;
  /** Reads a picture while others are looked at. @returns what looks at it */
  prepare(picture: Picture): Promise<() => Promise<Outputs>>;
  close(): void | Promise<void>;
}

export async function openHere(model: Model, name: EngineName | "auto", threads: number): Promise<Viewer> {
  const { engine } = await openEngine(name, model, { threads });
  return {
    engine: engine.name,
    async prepare(picture) {
      const pixels = await evalPixels(picture, model.manifest.preprocess);
      return () => engine.run(pixels);
    },
    close: () => engine.dispose(),
  };
}
