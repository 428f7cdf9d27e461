/** The two binaries: chooses the one that runs here, and compiles it. */
import { messageOf, SlimViTError } from "../../errors.ts";
import { inflate } from "../../loading/inflate.ts";

export type Flavour = "relaxed" | "plain";

// Modules as small as they can be, so that a machine decodes and compiles one binary only.
const HEADER = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1];
const SPLAT = [253, 15];
/** () => i8x16.splat(0) */
const SIMD = [...HEADER, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, ...SPLAT, 11];
/** dot() => lane 0 of i32x4.relaxed_dot_i8x16_i7x16_add_s(splat(−3), splat(5), i8x16.splat(1)) */
// biome-ignore format: one instruction after another
const RELAXED = [
  ...HEADER, 127, 3, 2, 1, 0, 7, 7, 1, 3, 100, 111, 116, 0, 0, 10, 22, 1, 20, 0,
  65, 125, ...SPLAT, 65, 5, ...SPLAT, 65, 1, ...SPLAT, 253, 147, 2, 253, 27, 0, 11,
];
const RELAXED_DOT = 4 * -3 * 5 + 0x01010101;

const IMPORT = [3, 101, 110, 118, 6, 109, 101, 109, 111, 114, 121, 2]; // "env", "memory", a memory
const compiled = new Map<string, Promise<WebAssembly.Module>>();

/** @throws SlimViTError `unsupported` when there is no WebAssembly or no SIMD in it */
export function chooseFlavour(): Flavour {
  if (typeof WebAssembly !== "object")
    throw new SlimViTError("unsupported", "This machine has no WebAssembly, which the simd engine is made of.");
  if (hasRelaxedDot()) return "relaxed";
  if (WebAssembly.validate(new Uint8Array(SIMD))) return "plain";
  throw new SlimViTError("unsupported", "This machine's WebAssembly has no SIMD, which the simd engine needs.");
}

/**
 * Also computes a dot product, because the baseline compiler of V8 11.3 (Node 20 with its experimental flag) accepts
 * the instruction and gives wrong sums.
 */
export function hasRelaxedDot(): boolean {
  const bytes = new Uint8Array(RELAXED);
  if (!WebAssembly.validate(bytes)) return false;
  try {
    const { dot } = new WebAssembly.Instance(new WebAssembly.Module(bytes)).exports as { dot(): number };
    return dot() === RELAXED_DOT;
  } catch {
    return false; // no compiling here; compileKernels will say why
  }
}

/**
 * Compiled once, for any number of models.
 * @param shared whether its memory is
 * @throws SlimViTError `unsupported`, for instance under a Content-Security-Policy without 'wasm-unsafe-eval'
 */
export function compileKernels(flavour: Flavour, shared: boolean): Promise<WebAssembly.Module> {
  const key = `${flavour} ${shared}`;
  let module = compiled.get(key);
  if (!module) {
    module = compile(flavour, shared).catch((error) => {
      compiled.delete(key);
      throw new SlimViTError("unsupported", `The simd engine's kernels do not compile here: ${messageOf(error)}`, {
        cause: error,
      });
    });
    compiled.set(key, module);
  }
  return module;
}

async function compile(flavour: Flavour, shared: boolean): Promise<WebAssembly.Module> {
  const { binary, sizes } = await import("./generated/kernels.ts");
  const both = await inflate(binary);
  const bytes = flavour === "relaxed" ? both.subarray(0, sizes.relaxed) : both.subarray(sizes.relaxed);
  if (!shared) unshare(bytes);
  return WebAssembly.compile(bytes);
}

/** The binaries import a shared memory, which pages that are not cross-origin isolated need not give. One bit says so. */
function unshare(bytes: Uint8Array): void {
  const at = bytes.findIndex((_, i) => IMPORT.every((byte, k) => bytes[i + k] === byte));
  bytes[at + IMPORT.length] &= ~2;
}
