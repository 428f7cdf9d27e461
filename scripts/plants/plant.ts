/** A fault as somebody could make it by a slip, and the tests that are to notice it. */
export interface Plant {
  /** what is wrong */
  name: string;
  file: string;
  /** text that is in the file exactly once */
  find: string;
  /** what takes its place */
  plant: string;
  /** test files, enough to notice it */
  tests: string[];
  /** what must be built before the tests see it */
  builds?: "kernels" | "package";
}
