/** Bounds on the sizes in a manifest, so that a hostile one cannot make the reader allocate without limit. */
export const LIMITS = {
  imageSize: 4096,
  patchSize: 256,
  embedDim: 16384,
  prefixTokens: 16,
  blocks: 1024,
  tokens: 65_536,
  classes: 1_000_000,
  mlpHidden: 65_536,
  heads: 1024,
  variants: 64,
  weightsBytes: 2 ** 31,
  /** values of tensors that a file leaves out, which are zeros */
  filledValues: 2 ** 26,
};
