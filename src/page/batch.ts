/** Many pictures: some are sent to the worker while others are computed, and results come in their order. */
import { SlimViTError } from "../errors.ts";
import type { ImageInput } from "../protocol.ts";

/** Pictures on their way at once when the engine takes one at a time: one in work, one being sent. */
export const MIN_IN_FLIGHT = 2;

/**
 * One picture or an array of them.
 *
 * @param inFlight how many are on their way at once
 * @throws SlimViTError the error of the first picture that fails, with its name
 */
export async function eachOf<R>(
  image: ImageInput | readonly ImageInput[],
  inFlight: number,
  work: (one: ImageInput) => Promise<R>,
): Promise<R | R[]> {
  if (!Array.isArray(image)) return work(image as ImageInput);
  const started: Promise<R>[] = [];
  const results: R[] = [];
  for (let i = 0; i < image.length; i++) {
    while (started.length < Math.min(image.length, i + inFlight)) {
      const one = work(image[started.length]);
      one.catch(() => {}); // reported when its turn comes
      started.push(one);
    }
    try {
      results.push(await started[i]);
    } catch (error) {
      if (!(error instanceof SlimViTError)) throw error;
      const message = `Picture ${i + 1} of ${image.length}: ${error.message}`;
      throw new SlimViTError(error.code, message, { cause: error });
    }
  }
  return results;
}
