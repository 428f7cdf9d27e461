/** Pages in a Chromium that has WebNN. A missing one, or one without it, fails the run. */
import { rmSync } from "node:fs";
import { join } from "node:path";
import type { RunOutput } from "../../src/engines/engine.ts";
import type { Model, WeightsDtype } from "../../src/format/model.ts";
import type { WebnnOptions } from "../../src/protocol.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { addEngines, bundleEngines, SHIPPED } from "./gpu.ts";
import { openStage, type Stage } from "./page.ts";

export async function openWebnnStage(more: Record<string, string> = {}, flags: string[] = []): Promise<Stage> {
  const bundle = await bundleEngines();
  const stage = await openStage(true, { "/shipped": SHIPPED, "/bundle": bundle, ...more }, flags, true);
  const fault = await stage.page.evaluate(async () => {
    try {
      if (!navigator.ml) return "it has no navigator.ml";
      (await navigator.ml.createContext()).destroy();
    } catch (error) {
      return String(error);
    }
  });
  if (fault) {
    await stage.close();
    throw new Error(`This Chromium gives no WebNN context: ${fault}.`);
  }
  await addEngines(stage);
  return {
    ...stage,
    async close() {
      await stage.close();
      rmSync(bundle, { recursive: true, force: true });
    },
  };
}

export function writeModel(
  { models }: Stage,
  name: string,
  { manifest, tensors }: Model,
  dtypes: WeightsDtype[],
): string {
  writeModelFolder(join(models, name), { ...manifest, name }, tensors, dtypes);
  return `/models/${name}/`;
}

export interface Run {
  folder: string;
  dtype: WeightsDtype;
  images: Float32Array[];
  engine?: "webnn" | "simd";
  webnn?: WebnnOptions;
  explain?: boolean;
}

/** The engine on the page itself: outputs for each of the images. */
export async function runEngine({ page }: Stage, { images, ...how }: Run): Promise<RunOutput[]> {
  const outputs = await page.evaluate(
    async ({ folder, dtype, images, engine: name = "webnn", webnn, explain }) => {
      const { model } = await loadModel(folder, dtype);
      const { engine } = await openEngine(name, model, { webnn });
      const outputs: RunOutput[] = [];
      for (const pixels of images) outputs.push(await engine.run(Float32Array.from(pixels), { explain }));
      engine.dispose();
      return JSON.stringify(outputs, (_, value) => (ArrayBuffer.isView(value) ? [...(value as Float32Array)] : value));
    },
    { ...how, images: images.map((pixels) => [...pixels]) },
  );
  return JSON.parse(outputs);
}
