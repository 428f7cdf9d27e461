/** The gradients of one step: mixes pictures, computes the losses of one network or several, and sums them. */
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import { beta } from "../shared/random.ts";
import type { Batch } from "./batches.ts";
import { baseLoss, mixTargets, smoothTargets } from "./losses.ts";
import type { Recipe } from "./recipe.ts";
import type { Student, TrainTask } from "./task.ts";

/** Gradients of the mean loss over `size` pictures. */
export interface Gradients {
  size: number;
  byName: Map<string, Tensor>;
  /** the loss and the terms it is the sum of */
  terms: Record<string, number>;
}

/**
 * Gradients of the task's network, or of the step's networks one after the other, so that only one has its activations
 * in memory.
 */
export async function gradientsOf(
  tf: TF,
  task: TrainTask,
  recipe: Recipe,
  batch: Batch,
  rng: () => number,
  { step, progress }: { step: number; progress: number },
): Promise<Gradients> {
  const mixed = mix(batch, task, recipe, rng);
  const [height, width] = task.data.preprocess.crop;
  const pixels = tf.tensor4d(mixed.pixels, [batch.size, 3, height, width]) as Tensor;
  const targets = mixed.targets && (tf.tensor2d(mixed.targets, [batch.size, task.classes]) as Tensor);
  const teacher = task.teacher && tf.tidy(() => tf.clone(task.teacher!(pixels)));
  const lossOf = ({ forward, weight }: Omit<Student, "name">) =>
    gradientsOfTerms(tf, task, () => {
      const gates = dropPathGates(tf, task.depth, batch.size, recipe.dropPath, rng);
      const terms = { ...baseLoss(tf, recipe, forward(pixels, gates, progress), targets, teacher, task.learns) };
      if (weight !== 1) for (const name of Object.keys(terms)) terms[name] = tf.mul(terms[name], weight);
      return { ...terms, ...task.penalties?.() };
    });
  const sum = task.together
    ? await sumOf(tf, task, task.together.ofStep(step), lossOf)
    : await lossOf({ forward: task.forward, weight: 1 });
  tf.dispose([pixels, ...(targets ? [targets] : []), ...(teacher ? [teacher] : [])]);
  return { size: batch.size, ...sum };
}

type Sum = Omit<Gradients, "size">;

/** Gradients of one network's terms. */
async function gradientsOfTerms(tf: TF, task: TrainTask, termsOf: () => Record<string, Tensor>): Promise<Sum> {
  const kept: Record<string, Tensor> = {};
  const { gradients, loss } = tf.tidy(() => {
    const { value, grads } = tf.variableGrads(() => {
      const parts = termsOf();
      for (const [name, term] of Object.entries(parts)) kept[name] = tf.keep(term.clone());
      return tf.addN(Object.values(parts)).asScalar();
    }, [...task.variables.values()]);
    return { gradients: grads, loss: value as Tensor };
  });
  const terms: Record<string, number> = {};
  for (const [name, term] of Object.entries({ loss, ...kept })) terms[name] = (await term.data())[0];
  tf.dispose([loss, kept]);
  const byName = new Map(
    [...task.variables].flatMap(([name, variable]) =>
      gradients[variable.name] ? [[name, gradients[variable.name] as Tensor] as const] : [],
    ),
  );
  return { byName, terms };
}

/**
 * @returns the gradients' sum. Variables that none of these networks has get zeros, so that the optimiser's averages count the
 *   same steps for all.
 */
async function sumOf(
  tf: TF,
  { variables }: TrainTask,
  students: Student[],
  gradientsOf: (student: Student) => Promise<Sum>,
): Promise<Sum> {
  const byName = new Map<string, Tensor>();
  const terms: Record<string, number> = {};
  for (const student of students) {
    const own = await gradientsOf(student);
    for (const [name, gradient] of own.byName) {
      const before = byName.get(name);
      byName.set(name, before ? tf.add(before, gradient) : gradient);
      if (before) tf.dispose([before, gradient]);
    }
    for (const [name, value] of Object.entries(own.terms)) terms[name] = (terms[name] ?? 0) + value;
    terms[`loss.${student.name}`] = own.terms.loss;
  }
  for (const [name, variable] of variables) if (!byName.has(name)) byName.set(name, tf.zerosLike(variable));
  return { byName, terms };
}

/** Gradients over the pictures of both. `a` and `b` are disposed of. */
export function addGradients(tf: TF, a: Gradients, b: Gradients): Gradients {
  const size = a.size + b.size;
  const mean = (x: number, y: number) => (x * a.size + y * b.size) / size;
  const byName = new Map(
    [...a.byName].map(([name, x]) => {
      const y = b.byName.get(name)!;
      return [name, tf.tidy(() => tf.add(tf.mul(x, a.size / size), tf.mul(y, b.size / size)))];
    }),
  );
  tf.dispose([...a.byName.values(), ...b.byName.values()]);
  const terms = Object.fromEntries(Object.entries(a.terms).map(([name, x]) => [name, mean(x, b.terms[name])]));
  return { size, byName, terms };
}

/** Mixup or cutmix of the batch with its reverse, targets alike; distillation sees the mixed pictures too. */
function mix(
  batch: Batch,
  { classes, data }: TrainTask,
  recipe: Recipe,
  rng: () => number,
): { pixels: Float32Array; targets?: Float32Array } {
  const labelled = data.indices !== undefined;
  const targets = labelled ? smoothTargets(batch.labels, classes, recipe.smoothing) : undefined;
  const useCutmix = recipe.cutmix > 0 && (recipe.mixup === 0 || rng() < 0.5);
  const strength = useCutmix ? recipe.cutmix : recipe.mixup;
  if (strength === 0 || batch.size < 2) return { pixels: batch.pixels, targets };
  const { size, pixels } = batch;
  const [height, width] = data.preprocess.crop;
  const each = 3 * height * width;
  let lam = beta(strength, rng);
  const out = new Float32Array(pixels.length);
  if (useCutmix) {
    const h = Math.round(height * Math.sqrt(1 - lam));
    const w = Math.round(width * Math.sqrt(1 - lam));
    const top = Math.floor(rng() * (height - h + 1));
    const left = Math.floor(rng() * (width - w + 1));
    lam = 1 - (h * w) / (height * width);
    out.set(pixels);
    for (let b = 0; b < size; b++) {
      for (let c = 0; c < 3; c++) {
        for (let y = top; y < top + h; y++) {
          const at = (c * height + y) * width + left;
          out.set(pixels.subarray((size - 1 - b) * each + at, (size - 1 - b) * each + at + w), b * each + at);
        }
      }
    }
  } else {
    for (let b = 0; b < size; b++) {
      const [mine, other] = [b * each, (size - 1 - b) * each];
      for (let k = 0; k < each; k++) out[mine + k] = lam * pixels[mine + k] + (1 - lam) * pixels[other + k];
    }
  }
  const flipped = targets && smoothTargets([...batch.labels].reverse(), classes, recipe.smoothing);
  return { pixels: out, targets: targets && mixTargets(targets, flipped!, lam) };
}

/** Stochastic depth: block i's branches are dropped with a probability that grows linearly with depth. */
function dropPathGates(tf: TF, depth: number, batch: number, rate: number, rng: () => number) {
  if (rate === 0) return undefined;
  const gate = (drop: number) =>
    tf.tensor3d(
      Float32Array.from({ length: batch }, () => (rng() < drop ? 0 : 1 / (1 - drop))),
      [batch, 1, 1],
    ) as Tensor;
  return Array.from({ length: depth }, (_, i) => {
    const drop = depth > 1 ? (rate * i) / (depth - 1) : 0;
    return { attn: gate(drop), mlp: gate(drop) };
  });
}
