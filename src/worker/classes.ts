/** Outputs of a network → scored classes: softmax or sigmoid, the caller's own classes, filters, the best k. */
import { SlimViTError } from "../errors.ts";
import type { Label, Manifest } from "../format/model.ts";
import type { ClassifyOptions, ScoredClass, TaughtHead } from "../protocol.ts";
import { headLogits, nearestCosine, SCORE } from "../reference/scores.ts";

/** The parts of a network's output from which classes are picked. */
export interface Output {
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

/**
 * Checks the options once, then picks from any output.
 *
 * @param rule of the network's own head; `options.head` brings its own
 * @throws SlimViTError `bad-option`; `unsupported` for an embedding model without `classes`
 */
export async function classPicker(
  manifest: Manifest,
  options: ClassifyOptions & { head?: TaughtHead },
  rule?: Rule,
): Promise<(output: Output) => Picked> {
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
    ? (await import("./zeroShot.ts")).zeroShot(classes, options.temperature, manifest.provenance.zeroShot)
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
