/** Embeddings of pictures with known classes, and what is computed from them alone. */
import { SlimViTError } from "../errors.ts";
import type { Taught } from "../protocol.ts";
import type { Samples } from "./regression.ts";

/** Fewer pictures of a class than this cannot be judged by a fit without some of them. */
const FEWEST = 2;

/** The map from embeddings to `Samples`: x = (embedding − mean) / scale. */
export interface Placement {
  mean: Float64Array;
  scale: number;
}

/**
 * @param dim length of an embedding
 * @throws SlimViTError `bad-input` for fewer than two classes, fewer than two pictures of one, and numbers that are not finite
 */
export function checkTaught({ names, classOf, embeddings }: Taught, dim: number): void {
  if (names.length < 2) {
    const are = names.length ? `is ${JSON.stringify(names[0])} alone` : "are none";
    const advice = "Teach two or more, such as the thing and pictures of other things.";
    throw new SlimViTError("bad-input", `There ${are} to be taught as a class. ${advice}`);
  }
  const counts = countsOf({ names, classOf });
  const few = counts.findIndex((count) => count < FEWEST);
  if (few >= 0) {
    const count = counts[few] === 1 ? "1 picture" : "no pictures";
    throw new SlimViTError(
      "bad-input",
      `Class ${JSON.stringify(names[few])} has ${count}; expected at least ${FEWEST} of each.`,
    );
  }
  if (embeddings.length !== classOf.length * dim || !embeddings.every(Number.isFinite)) {
    const fault = `The embeddings are ${embeddings.length} numbers; expected ${classOf.length} × ${dim}, all of them finite.`;
    throw new SlimViTError("bad-input", fault);
  }
}

/** Pictures of each class. */
export function countsOf({ names, classOf }: Pick<Taught, "names" | "classOf">): number[] {
  const counts = names.map(() => 0);
  for (const kind of classOf) counts[kind]++;
  return counts;
}

/** Centres embeddings and brings them to one scale, so that the penalty means the same for every model. */
export function placed(
  { names, classOf, embeddings }: Taught,
  dim: number,
): { samples: Samples; placement: Placement } {
  const count = classOf.length;
  const mean = new Float64Array(dim);
  for (let i = 0; i < embeddings.length; i++) mean[i % dim] += embeddings[i] / count;
  const x = Float64Array.from(embeddings, (v, i) => v - mean[i % dim]);
  const squares = x.reduce((sum, v) => sum + v * v, 0);
  const scale = Math.sqrt(squares / x.length) || 1; // all pictures may be the same
  for (let i = 0; i < x.length; i++) x[i] /= scale;
  return { samples: { x, y: classOf, count, dim, classes: names.length }, placement: { mean, scale } };
}

/**
 * @param counts whether a picture counts
 * @returns [classes, dim]
 */
export function meansOf(
  { names, classOf, embeddings }: Taught,
  dim: number,
  counts: (row: number) => boolean = () => true,
): Float32Array {
  const sums = new Float64Array(names.length * dim);
  const numbers = new Int32Array(names.length);
  classOf.forEach((kind, row) => {
    if (!counts(row)) return;
    numbers[kind]++;
    for (let j = 0; j < dim; j++) sums[kind * dim + j] += embeddings[row * dim + j];
  });
  return Float32Array.from(sums, (sum, i) => sum / Math.max(1, numbers[Math.floor(i / dim)]));
}
