/**
 * Calibrates the rule for pictures that show none of the classes: the cosine of the features with the nearest class
 * mean. On pictures of other things it discriminates better than scores or logits, which only compare the classes with
 * one another.
 */
import type { UnknownRule } from "../format/model.ts";
import type { Taught } from "../protocol.ts";
import { nearestCosine } from "../reference/scores.ts";
import { meansOf } from "./taught.ts";

/**
 * @param foldOf of each picture; its cosine is with the means of all other folds' pictures
 * @param accepted share of the pictures of its own classes that the rule may call unknown
 */
export function calibrate(taught: Taught, dim: number, foldOf: Int32Array, accepted: number): UnknownRule {
  const count = foldOf.length;
  const folds = Math.max(...foldOf) + 1;
  const cosines = new Float64Array(count);
  for (let fold = 0; fold < folds; fold++) {
    const means = meansOf(taught, dim, (row) => foldOf[row] !== fold);
    foldOf.forEach((own, row) => {
      if (own === fold) cosines[row] = nearestCosine(taught.embeddings.subarray(row * dim, (row + 1) * dim), means);
    });
  }
  let rejected = 0;
  for (let fold = 0; fold < folds; fold++) {
    const others = cosines.filter((_, row) => foldOf[row] !== fold);
    const threshold = quantile(others, accepted);
    rejected += cosines.filter((cosine, row) => foldOf[row] === fold && cosine < threshold).length;
  }
  return { threshold: quantile(cosines, accepted), falseRejection: rejected / count, n: count };
}

/** The value below which at most `share` of the values lie. */
function quantile(values: Float64Array, share: number): number {
  return values.slice().sort()[Math.min(values.length - 1, Math.floor(share * values.length))];
}
