/**
 * Positions inside attention: rotary embeddings by the position of a token, and learned biases by the positions of two
 * tokens.
 */
import { type Architecture, patchGrid } from "../format/model.ts";
import { ropeCoordinates } from "../reference/positions.ts";
import { constant, type Tensor, type TF } from "./ops.ts";

/** Coordinates of the tokens of block i before any has merged: [1, tokens, 2] */
export function coordinatesOf(tf: TF, arch: Architecture, i: number): Tensor {
  const { keepIdx } = arch.blocks[i];
  return tf.tensor3d(Float32Array.from(ropeCoordinates(arch, keepIdx)), [1, keepIdx.length, 2]);
}

/** Cosines and sines of the angles that tokens are turned by, [1 or batch, heads, tokens, width / 2] */
export type Turns = { cos: Tensor; sin: Tensor };

/**
 * @param frequencies [2, heads × width / 2]
 * @param coordinates [1 or batch, tokens, 2]; 0 for prefix tokens, which are not turned
 */
export function turnsOf(tf: TF, frequencies: Tensor, coordinates: Tensor, heads: number): Turns {
  const [batch, tokens] = coordinates.shape as number[];
  const half = frequencies.shape[1]! / heads;
  const flat = tf.matMul(tf.reshape(coordinates, [-1, 2]) as never, frequencies as never) as Tensor;
  const angles = tf.transpose(tf.reshape(flat, [batch, tokens, heads, half]), [0, 2, 1, 3]);
  return tf.getBackend() === "webgpu" ? preciseTurns(tf, angles) : { cos: tf.cos(angles), sin: tf.sin(angles) };
}

/** 2π in two parts: the first has so few bits that its products with whole numbers are exact in f32. */
const CIRCLE = [6.28125, 2 * Math.PI - 6.28125] as const;

/** Coefficients of the series of sine and cosine in x², as far as they matter below π/4. */
const SINE = [1, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880];
const COSINE = [1, -1 / 2, 1 / 24, -1 / 720, 1 / 40320, -1 / 3628800];

/**
 * The turns to 1e-6. WGSL's own sine and cosine may be off by 2⁻¹¹, which changes a score more than all other rounding.
 * @see https://www.w3.org/TR/WGSL/#concrete-float-accuracy
 */
export function preciseTurns(tf: TF, angles: Tensor): Turns {
  const values = constant(tf, () => {
    const circles = tf.round(tf.mul(angles, 1 / (2 * Math.PI)));
    const within = tf.sub(tf.sub(angles, tf.mul(circles, CIRCLE[0])), tf.mul(circles, CIRCLE[1]));
    const quarter = tf.mul(within, 0.25);
    const square = tf.square(quarter);
    const series = (terms: number[]) =>
      terms.reduceRight<Tensor>((sum, term) => tf.add(tf.mul(sum, square), term), tf.zerosLike(square));
    let [sin, cos] = [tf.mul(series(SINE), quarter), series(COSINE)];
    for (let doubled = 0; doubled < 2; doubled++)
      [sin, cos] = [tf.mul(tf.mul(sin, cos), 2), tf.sub(1, tf.mul(tf.square(sin), 2))];
    return tf.stack([sin, cos]);
  });
  const [sin, cos] = tf.unstack(values);
  /** `value`, whose slope along the angle is `slope`. */
  const known = (value: Tensor, slope: Tensor): Tensor =>
    tf.customGrad((_, save) => {
      (save as unknown as (tensors: Tensor[]) => void)([slope]);
      return { value: tf.clone(value), gradFunc: (dy: Tensor, [slope]: Tensor[]) => tf.mul(dy, slope) };
    })(angles);
  return { cos: known(cos, tf.neg(sin)), sin: known(sin, cos) };
}

/**
 * @param x [batch, heads, tokens, width]: of each pair of channels the first lies in the first half, the second in the second
 * @param turns of as many tokens or more, of which the first are taken
 */
export function turn(tf: TF, x: Tensor, turns: Turns): Tensor {
  const [, , tokens] = x.shape as number[];
  const [cos, sin] = [turns.cos, turns.sin].map((t) => {
    const [batch, heads, all, half] = t.shape as number[];
    return all === tokens ? t : tf.slice(t, [0, 0, 0, 0], [batch, heads, tokens, half]);
  });
  const [a, b] = tf.split(x, 2, 3);
  return tf.concat([tf.sub(tf.mul(a, cos), tf.mul(b, sin)), tf.add(tf.mul(a, sin), tf.mul(b, cos))], 3);
}

/**
 * The bias that the places of a query and a key add to their score.
 * @param table [heads, (2R − 1)(2C − 1) + 3], as `relativeBias` of src/reference/positions.ts reads it
 * @returns [heads, keepIdx.length, keepIdx.length]
 */
export function relativeBias(tf: TF, arch: Architecture, keepIdx: number[], table: Tensor): Tensor {
  const [rows, columns] = patchGrid(arch);
  const heads = table.shape[0]!;
  const places = (2 * rows - 1) * (2 * columns - 1);
  const patches = keepIdx.filter((token) => token >= arch.prefixTokens).map((token) => token - arch.prefixTokens);
  const [p, n] = [keepIdx.length - patches.length, patches.length];
  const indices = patches.flatMap((from) =>
    patches.map((to) => {
      const down = Math.floor(from / columns) - Math.floor(to / columns) + rows - 1;
      return down * (2 * columns - 1) + (from % columns) - (to % columns) + columns - 1;
    }),
  );
  const between = () =>
    tf.reshape(gatherPlaces(tf, tf.slice(table, [0, 0], [heads, places]), indices), [heads, n, n]) as Tensor;
  /** The table's entry `k` behind those of places, repeated `height` × `width` times. */
  const all = (k: number, height: number, width: number): Tensor =>
    tf.mul(tf.reshape(tf.slice(table, [0, places + k], [heads, 1]), [heads, 1, 1]), tf.ones([1, height, width]));
  const beside = (parts: Tensor[], axis: number) => (parts.length > 1 ? tf.concat(parts, axis) : parts[0]);
  const ofPrefix = p ? [beside([all(2, p, p), ...(n ? [all(0, p, n)] : [])], 2)] : [];
  const ofPatches = n ? [beside([...(p ? [all(1, n, p)] : []), between()], 2)] : [];
  return beside([...ofPrefix, ...ofPatches], 1);
}

/**
 * Columns of a table, with a gradient that gathers as well: it needs no scatter kernel.
 * @param table [heads, places]
 * @returns [heads, indices.length]
 */
function gatherPlaces(tf: TF, table: Tensor, indices: number[]): Tensor {
  const [heads, places] = table.shape as number[];
  const op = tf.customGrad((table) => ({
    value: tf.gather(table as Tensor, tf.tensor1d(indices, "int32"), 1),
    gradFunc: (dy: Tensor) => {
      const readers: number[][] = Array.from({ length: places }, () => []);
      indices.forEach((place, at) => void readers[place].push(at));
      const most = Math.max(...readers.map(({ length }) => length));
      const padded = readers.flatMap((at) => [...at, ...Array<number>(most - at.length).fill(indices.length)]);
      const gathered = tf.gather(tf.concat([dy, tf.zeros([heads, 1])], 1), tf.tensor1d(padded, "int32"), 1);
      return tf.sum(tf.reshape(gathered, [heads, places, most]), 2);
    },
  }));
  return op(table);
}
