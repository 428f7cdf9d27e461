/** Classes that the caller gives as vectors in the model's embedding space. The worker reads this code when a call names some. */
import { SlimViTError } from "../errors.ts";
import type { ZeroShot } from "../format/model.ts";
import type { ClassifyOptions } from "../protocol.ts";
import type { RunOutput } from "../reference/forward.ts";
import { dot, SCORE } from "../reference/scores.ts";

/** For models that do not state how they were trained. CLIP's temperature is 0.01. */
const CLIP: ZeroShot = { scores: "softmax", scale: 100, bias: 0 };

/**
 * Scores by the cosines between the picture's features and each class's vector.
 *
 * @param temperature divides the cosines; default the one that the model was trained with
 * @throws SlimViTError `bad-option`, here or from the function that it returns
 */
export function zeroShot(
  classes: NonNullable<ClassifyOptions["classes"]>,
  temperature: number | undefined,
  { scores, scale, bias } = CLIP,
): (output: Pick<RunOutput, "features">) => Float64Array {
  const factor = temperature === undefined ? scale : 1 / temperature;
  if (!(factor > 0 && Number.isFinite(factor))) {
    throw new SlimViTError("bad-option", `temperature is ${temperature}; expected a number above 0.`);
  }
  const entries = Object.entries(classes);
  if (!entries.length)
    throw new SlimViTError("bad-option", "classes is empty; expected at least one name with a vector.");
  const directions = entries.map(([name, vector]) => direction(`classes[${JSON.stringify(name)}]`, vector));
  return ({ features }) => {
    const mine = direction("The picture's embedding", features);
    const cosines = directions.map((theirs, i) => {
      if (theirs.length === mine.length) return dot(theirs, mine);
      const [name] = entries[i];
      throw new SlimViTError(
        "bad-option",
        `classes[${JSON.stringify(name)}] has ${theirs.length} numbers; this model's embeddings have ${mine.length}.`,
      );
    });
    return SCORE[scores](cosines.map((cosine) => factor * cosine + bias));
  };
}

/** @returns the vector at length 1 */
function direction(name: string, vector: Float32Array | readonly number[]): Float64Array {
  const isList = Array.isArray(vector) || ArrayBuffer.isView(vector);
  const values = isList ? Float64Array.from(vector) : new Float64Array();
  const length = Math.sqrt(dot(values, values));
  if (length > 0 && Number.isFinite(length)) return values.map((v) => v / length);
  throw new SlimViTError("bad-option", `${name} is no vector; expected finite numbers that are not all 0.`);
}
