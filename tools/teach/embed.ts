/** Pictures on disk → their features, computed by the shipped engine. */
import { openWithoutDevice } from "../../src/engines/opening.ts";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { featureDim, type Model } from "../../src/format/model.ts";
import { evalPixels, type Picture } from "../data/data.ts";
import { startProgress } from "../shared/progress.ts";
import { say } from "../shared/terminal.ts";

export interface Embedded {
  /** those that could be read */
  pictures: Picture[];
  /** [pictures, featureDim] */
  features: Float32Array;
}

/** Pictures decoded while the engine runs. */
const AHEAD = 4;

/** @throws SlimViTError `bad-input` where no picture can be read; one that cannot is named and left out */
export async function embedPictures(model: Model, pictures: Picture[], threads: number): Promise<Embedded> {
  const { engine } = await openWithoutDevice(model, { threads });
  const dim = featureDim(model.manifest);
  const features = new Float32Array(pictures.length * dim);
  const readable: Picture[] = [];
  const progress = startProgress("embed", pictures.length);
  const started: Promise<Float32Array>[] = [];
  try {
    for (const [k, picture] of pictures.entries()) {
      while (started.length < Math.min(pictures.length, k + AHEAD)) {
        const pixels = evalPixels(pictures[started.length], model.manifest.preprocess);
        pixels.catch(() => {}); // reported when its turn comes
        started.push(pixels);
      }
      let pixels: Float32Array;
      try {
        pixels = await started[k];
      } catch (error) {
        say(`skipped: ${messageOf(error)}`);
        continue;
      }
      started[k] = Promise.resolve(new Float32Array()); // the pixels of all pictures would be too many
      features.set((await engine.run(pixels)).features, readable.length * dim);
      readable.push(picture);
      progress.update(k + 1, "");
    }
  } finally {
    progress.stop();
    engine.dispose();
  }
  if (!readable.length) throw new SlimViTError("bad-input", "No picture of the data can be read.");
  return { pictures: readable, features: features.subarray(0, readable.length * dim) };
}
