/**
 * Where int8 products are summed in 16 bits. On machines without a dot-product instruction, the simd kernels take two
 * steps of 4 columns at once. The first two columns of each step are summed in 16 bits together, and so are the last
 * two. The quantiser keeps weights in a range in which this sum cannot overflow, and the kernels check it.
 * AssemblyScript also reads this file, so it has only numbers.
 */

/** Columns that one step of the int8 kernels takes. */
export const STEP_COLUMNS = 4;

/** Adjacent columns of each of two steps that meet in one sum. */
export const PAIR_COLUMNS = 2;

/**
 * Positive weights that meet must not sum to more than this, nor negative ones: times 127, the greatest activation, it is
 * the most that 16 bits hold.
 */
export const MOST_OF_ONE_SIGN = 258;
