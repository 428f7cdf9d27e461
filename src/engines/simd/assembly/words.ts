/** Reads the host's plan (layout.ts). */

// @ts-ignore: decorator
@inline
export function word(at: usize, index: i32): i32 {
  return load<i32>(at + index * 4);
}

/** A word that is an address, or a number of bytes. */
// @ts-ignore: decorator
@inline
export function address(at: usize, index: i32): usize {
  return load<i32>(at + index * 4);
}

// @ts-ignore: decorator
@inline
export function float(at: usize, index: i32): f32 {
  return load<f32>(at + index * 4);
}
