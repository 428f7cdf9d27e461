/**
 * Where int8 products are summed in 16 bits. Without a dot product of one instruction, the simd engine's kernels take two
 * steps of 4 columns at once, and the first two columns of each step meet in one sum of 16 bits (the last two in another).
 * The quantiser keeps weights within what such a sum holds, and the kernels check it. AssemblyScript reads this file too, so it
 * has nothing but numbers.
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
