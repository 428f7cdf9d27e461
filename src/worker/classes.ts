/** Outputs of a network → scored classes: softmax or sigmoid, the caller's own classes, filters, the best k. */
import { SlimViTError } from "../errors.ts";
import type { Label, Manifest, ZeroShot } from "../format/model.ts";
import type { ClassifyOptions, ScoredClass, TaughtHead } from "../protocol.ts";
import { dot, headLogits, nearestCosine, sigmoid, softmax } from "../reference/scores.ts";

/** The parts of a network's output from which classes are picked. */
interface Output {
  logits: Float32Array;
  features: Float32Array;
}

/** The classes of a picture. */
export interface Picked {
  /** best first */
  classes: ScoredClass[];
  /** Whether the picture shows none of the classes, where there is a rule for it. */
  unknown?: boolean;
}

/** The data for the rule for unknown pictures. */
export type Rule = Pick<TaughtHead, "means" | "unknown">;

const SCORE = { softmax, sigmoid };

/** For models that do not state how they were trained. CLIP's temperature is 0.01. */
const CLIP: ZeroShot = { scores: "softmax", scale: 100, bias: 0 };

/**
 * Checks the options once, then picks from any output.
 *
 * @param rule of the network's own head; `options.head` brings its own
 * @throws SlimViTError `bad-option`; `unsupported` for an embedding model without `classes`
 */
export function classPicker(
  manifest: Manifest,
  options: ClassifyOptions & { head?: TaughtHead },
  rule?: Rule,
): (output: Output) => Picked {
  const { topK = 5, scoreThreshold = 0, allow, deny, classes, head } = options;
  if (!Number.isSafeInteger(topK) || topK < 1) {
    throw new SlimViTError("bad-option", `topK is ${topK}; expected a whole number of at least 1.`);
  }
  if (!(scoreThreshold >= 0 && scoreThreshold <= 1)) {
    throw new SlimViTError("bad-option", `scoreThreshold is ${scoreThreshold}; expected a number from 0 to 1.`);
  }
  if (!classes && !head && !manifest.head) {
    throw new SlimViTError(
      "unsupported",
      `${manifest.name} is an embedding model and has no classes. Pass classes: { name: vector } in its ` +
        "embedding space, or compare vectors of embed().",
    );
  }
  const labels = classes ? Object.keys(classes).map((name) => ({ id: name, label: name })) : (head ?? manifest).labels;
  const scoresOf = classes
    ? zeroShot(classes, options.temperature, manifest.provenance.zeroShot)
    : ownScores(manifest, head);
  const known = classes ? undefined : (head ?? rule);
  const allowed = allow && indicesOf(labels, allow, "allow");
  const denied = deny && indicesOf(labels, deny, "deny");
  return (output) => {
    const scores = scoresOf(output);
    const order = [...labels.keys()].filter(
      (i) => scores[i] >= scoreThreshold && (allowed?.has(i) ?? true) && !denied?.has(i),
    );
    order.sort((a, b) => scores[b] - scores[a]);
    return {
      classes: order.slice(0, topK).map((index) => ({ ...labels[index], index, score: scores[index] })),
      ...(known && { unknown: nearestCosine(output.features, known.means) < known.unknown.threshold }),
    };
  };
}

/** @param taught in place of the network's own head */
function ownScores({ head, name }: Manifest, taught?: TaughtHead): (output: Output) => Float64Array {
  const score = SCORE[(!taught && head?.scores) || "softmax"];
  return (output) => {
    const logits = taught ? headLogits(taught, output.features) : output.logits;
    checkFinite(logits, name);
    return score(logits);
  };
}

/** @throws SlimViTError `unsupported` for NaN and infinities, which are no answer */
export function checkFinite(values: Float32Array, name: string): void {
  const at = values.findIndex((v) => !Number.isFinite(v));
  if (at < 0) return;
  throw new SlimViTError(
    "unsupported",
    `${name} computed ${values[at]} for this picture (output ${at} of ${values.length}); expected finite numbers. Load ` +
      'it with another dtype, such as "f32", or another engine.',
  );
}

/** Scores by the cosines between the picture's features and each class's vector. */
function zeroShot(
  classes: NonNullable<ClassifyOptions["classes"]>,
  temperature: number | undefined,
  { scores, scale, bias } = CLIP,
): (output: Output) => Float64Array {
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

function indicesOf(labels: Label[], names: readonly string[], option: string): Set<number> {
  if (!Array.isArray(names)) {
    throw new SlimViTError("bad-option", `${option} is ${JSON.stringify(names)}; expected a list of ids or labels.`);
  }
  const indices = names.map((name) => {
    const found = labels.flatMap(({ id, label }, i) => (id === name || label === name ? [i] : []));
    if (found.length) return found;
    throw new SlimViTError(
      "bad-option",
      `${option} names ${JSON.stringify(name)}, which is no id or label of this model.`,
    );
  });
  return new Set(indices.flat());
}
