/** Shared by all kernels: how a shader declares its bindings, and the uniform of a call. */

/** A shader's text, and its bindings by name in the order of their numbers. */
export interface Shader {
  code: string;
  bindings: string[];
}

/** Repeats a line of WGSL for 0 … count - 1: loops that are unrolled because their bodies name registers. */
export function repeat(count: number, line: (i: number) => string, separator = "\n"): string {
  return Array.from({ length: count }, (_, i) => line(i)).join(separator);
}

/** Rounds up to a multiple of 4: rows of activations begin at whole vec4s. */
export const align4 = (n: number): number => (n + 3) & ~3;

export type Access = "read" | "write" | "uniform";

/**
 * Numbers the bindings in the order given.
 *
 * @param declared name → [access, WGSL type]; undefined for a binding that this variant of the shader does without
 */
export function declareBindings(declared: Record<string, [Access, string] | undefined>): Shader {
  const used = Object.entries(declared).filter((entry): entry is [string, [Access, string]] => entry[1] !== undefined);
  const space = { read: "storage, read", write: "storage, read_write", uniform: "uniform" };
  const lines = used.map(
    ([name, [access, type]], i) => `@group(0) @binding(${i}) var<${space[access]}> ${name}: ${type};`,
  );
  return { code: lines.join("\n"), bindings: used.map(([name]) => name) };
}

/** A whole shader: its bindings, then its body. */
export function shader(declared: Parameters<typeof declareBindings>[0], body: string): Shader {
  const { code, bindings } = declareBindings(declared);
  return { code: `${code}\n${body}`, bindings };
}
