/** The weights with the best accuracy on val so far. A training may end with them instead of its last ones. */
import type * as tfjs from "@tensorflow/tfjs-core";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import type { Accuracy } from "../models/history.ts";

export class BestWeights {
  /** by the variables' names; empty before the first measurement */
  readonly tensors = new Map<string, Tensor>();
  /** of the best weights */
  bestStep = 0;
  private score = Number.NEGATIVE_INFINITY;

  /**
   * Copies the variables if they are better than all before. Among equals the later ones count, because they have seen
   * more pictures.
   */
  offer(tf: TF, variables: Map<string, tfjs.Variable>, accuracy: Accuracy, step: number): void {
    const score = scoreOf(accuracy);
    if (score === undefined || !(score >= this.score)) return; // NaN is never the best
    [this.score, this.bestStep] = [score, step];
    for (const [name, variable] of variables) {
      this.tensors.get(name)?.dispose();
      this.tensors.set(name, tf.keep(variable.clone()));
    }
  }

  /** Goes on from a checkpoint's tensors, which were the best of its history. */
  restore(tensors: Map<string, Tensor>, history: Record<string, number>[]): void {
    if (!tensors.size) return;
    for (const [name, tensor] of tensors) this.tensors.set(name, tensor);
    for (const line of history) {
      const score = scoreOf(line);
      if (score !== undefined && score >= this.score) [this.score, this.bestStep] = [score, line.step];
    }
  }

  /**
   * Puts the best weights into the variables and frees the copies. @returns their step; undefined where nothing was
   * measured
   */
  takeOver(variables: Map<string, tfjs.Variable>): number | undefined {
    if (!this.tensors.size) return undefined;
    for (const [name, tensor] of this.tensors) {
      variables.get(name)!.assign(tensor as tfjs.Tensor);
      tensor.dispose();
    }
    this.tensors.clear();
    return this.bestStep;
  }
}

/**
 * The score of a measurement. On a few unlabelled pictures the divergence from a teacher says more than the agreement
 * of best classes.
 */
function scoreOf(accuracy: Accuracy): number | undefined {
  const { "val.top1": top1, "val.divergence": divergence } = accuracy;
  if (top1 !== undefined) return top1;
  return divergence === undefined ? (accuracy["val.agreement"] ?? accuracy["val.cosine"]) : -divergence;
}
