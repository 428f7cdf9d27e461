/**
 * Merging tokens. The choice of pairs is constant for gradients, which flow through the means of the pairs. The maths is
 * that of src/reference/merge.ts.
 */
import { type Architecture, denseTokens } from "../format/model.ts";
import type { RunOutput } from "../reference/forward.ts";
import { type MergePairs, mergedRows } from "../reference/merge.ts";
import { constant, gatherTokens, type Tensor, type TF } from "./ops.ts";
import type { Stream } from "./options.ts";
import { coordinatesOf } from "./positions.ts";

/** Less than the sum of squares of any real key. A key of zeros is similar to nothing. */
const LEAST_SQUARE = 1e-30;

/**
 * @param keys [batch, tokens, channels], all heads side by side
 * @returns for each row the row that it becomes, [batch, tokens]: prefix tokens, then those of A that are left, then B
 */
export function rowsOfAlike(tf: TF, keys: Tensor, prefixTokens: number, pairs: number): Tensor {
  return constant(tf, () => {
    const [batch, tokens] = keys.shape as number[];
    const ofA = (tokens - prefixTokens) >> 1;
    const ofB = tokens - prefixTokens - ofA;
    const every2nd = (first: number, count: number) =>
      Array.from({ length: count }, (_, k) => prefixTokens + first + 2 * k);
    const square = tf.sum(tf.square(keys), 2, true);
    const unit = tf.mul(keys, tf.rsqrt(tf.maximum(square, LEAST_SQUARE)));
    const [a, b] = [gatherTokens(tf, unit, every2nd(1, ofA)), gatherTokens(tf, unit, every2nd(0, ofB))];

    const similarity = tf.matMul(a, b, false, true);
    const best = tf.max(similarity, 2, true); // [batch, A, 1]
    const isBest = tf.cast(tf.equal(similarity, best), "float32");
    const placesOfB = tf.reshape(tf.range(0, ofB), [1, 1, ofB]);
    // Where two similarities are equal, the lower row is taken. This holds for partners and for pairs.
    const partner = tf.min(tf.add(placesOfB, tf.mul(tf.sub(1, isBest), ofB)), 2); // [batch, A]
    const isLower = tf.cast(
      tf.less(tf.reshape(tf.range(0, ofA), [1, 1, ofA]), tf.reshape(tf.range(0, ofA), [1, ofA, 1])),
      "float32",
    );
    const others = tf.reshape(best, [batch, 1, ofA]);
    const ties = tf.mul(tf.cast(tf.equal(others, best), "float32"), isLower);
    const rank = tf.sum(tf.add(tf.cast(tf.greater(others, best), "float32"), ties), 2);
    const merges = tf.cast(tf.less(rank, pairs), "float32"); // [batch, A]
    const stays = tf.sub(1, merges);
    const placeLeft = tf.sum(tf.mul(tf.reshape(stays, [batch, 1, ofA]), isLower), 2);

    const firstOfB = prefixTokens + ofA - pairs;
    const rowsOfA = tf.add(tf.mul(merges, tf.add(partner, firstOfB)), tf.mul(stays, tf.add(placeLeft, prefixTokens)));
    const rowsOfB = tf.tile(tf.reshape(tf.range(firstOfB, firstOfB + ofB), [1, ofB]), [batch, 1]);
    const inTurn = tf.reshape(tf.stack([tf.slice(rowsOfB, [0, 0], [batch, ofA]), rowsOfA], 2), [batch, 2 * ofA]);
    const prefix = prefixTokens ? [tf.tile(tf.reshape(tf.range(0, prefixTokens), [1, prefixTokens]), [batch, 1])] : [];
    const rest = ofB > ofA ? [tf.slice(rowsOfB, [0, ofA], [batch, 1])] : [];
    return tf.concat([...prefix, inTurn, ...rest] as Tensor[], 1);
  });
}

/** The rows for given pairs, the same in every picture. */
export function forcedRows(tf: TF, batch: number, tokens: number, prefixTokens: number, pairs: MergePairs): Tensor {
  const { rows } = mergedRows(tokens, prefixTokens, pairs);
  return tf.tile(tf.tensor2d(Float32Array.from(rows), [1, tokens]), [batch, 1]);
}

/**
 * Means of the rows that merge, weighted by how many patches each row stands for.
 * @param rows [batch, tokens]: the row that each becomes
 * @param count of rows after the merge
 */
export function mergeTokens(
  tf: TF,
  arch: Architecture,
  i: number,
  { x, sizes, coordinates }: Stream,
  rows: Tensor,
  count: number,
): Stream {
  const [batch, tokens] = rows.shape as number[];
  const isMember = tf.equal(tf.reshape(tf.range(0, count), [1, count, 1]), tf.reshape(rows, [batch, 1, tokens]));
  const member = tf.cast(isMember, "float32");
  const shares = sizes ? tf.mul(member, tf.reshape(sizes, [batch, 1, tokens])) : member;
  const total = tf.sum(shares, 2, true);
  const mean = tf.div(shares, total);
  const next: Stream = { x: tf.matMul(mean, x), sizes: tf.reshape(total, [batch, count]) };
  if (arch.position !== "rope") return next;
  const places = coordinates ?? tf.tile(coordinatesOf(tf, arch, i), [batch, 1, 1]);
  return { ...next, coordinates: tf.matMul(mean, places) };
}

/**
 * @param rowsOf for each block that merges, the row that each of one picture's rows becomes
 * @returns nothing for a network that merges nothing
 */
export function explainMerges(
  arch: Architecture,
  rowsOf: (ArrayLike<number> | undefined)[],
): Pick<RunOutput, "groups" | "pairs"> {
  const { blocks, prefixTokens } = arch;
  if (!blocks.some(({ merge }) => merge > 0)) return {};
  const groups: Int32Array[] = [];
  const pairs: MergePairs[] = [];
  let rowOf = new Int32Array(denseTokens(arch) - prefixTokens);
  blocks.forEach(({ keepIdx }, i) => {
    const shrinks = i === 0 || keepIdx.length < blocks[i - 1].keepIdx.length;
    if (shrinks) rowOf = rowsOfList(keepIdx, prefixTokens, rowOf.length);
    const rows = rowsOf[i];
    if (rows) rowOf = rowOf.map((row) => (row < 0 ? -1 : rows[row]));
    groups.push(rowOf);
    pairs.push(rows ? pairsOf(Array.from(rows), prefixTokens) : []);
  });
  return { groups, pairs };
}

function rowsOfList(keepIdx: number[], prefixTokens: number, patches: number): Int32Array<ArrayBuffer> {
  const rowOf = new Int32Array(patches).fill(-1);
  keepIdx.forEach((token, row) => {
    if (token >= prefixTokens) rowOf[token - prefixTokens] = row;
  });
  return rowOf;
}

/** The rows of A and B that become one. */
function pairsOf(rows: number[], prefixTokens: number): MergePairs {
  const rowOfB = new Map<number, number>();
  for (let b = prefixTokens; b < rows.length; b += 2) rowOfB.set(rows[b], b);
  const pairs: MergePairs = [];
  for (let a = prefixTokens + 1; a < rows.length; a += 2) {
    const b = rowOfB.get(rows[a]);
    if (b !== undefined) pairs.push([a, b]);
  }
  return pairs;
}
