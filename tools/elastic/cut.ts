/** The tensors of a variant, cut out of those of a larger one. */
import { SlimViTError } from "../../src/errors.ts";
import type { Architecture, Tensor, Tensors } from "../../src/format/model.ts";
import { growthOf, nest, take } from "../../src/format/nesting.ts";

/**
 * @param tensors in any dtype: int8 levels keep the scales of the larger one's rows
 * @returns the first channels of each head, the first heads and the first units; what no width decides as it is
 * @throws SlimViTError `bad-input` for widths that are no part of the larger ones
 */
export function cutToWidths(tensors: Tensors, from: Architecture, to: Architecture): Tensors {
  return new Map([...tensors].map(([key, tensor]) => [key, cutOne(key, tensor, from, to)]));
}

function cutOne(key: string, tensor: Tensor, from: Architecture, to: Architecture): Tensor {
  const [large, small] = [growthOf(from, key), growthOf(to, key)];
  if (!large || !small || String(large.parts) === String(small.parts)) return tensor;
  const nesting = nest(small, large);
  if (!nesting)
    throw new SlimViTError(
      "bad-input",
      `${key}: widths ${small.parts} do not fit into ${large.parts}; expected smaller or equal ones.`,
    );
  return take(tensor, nesting.axis, nesting.kept);
}
