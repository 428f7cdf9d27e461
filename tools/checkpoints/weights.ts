/** The tensors of a checkpoint during import. Each is used once, and an unused tensor is an error. */
import { SlimViTError } from "../../src/errors.ts";
import { decodeFloat16 } from "../../src/format/float16.ts";
import type { StoredTensor } from "../../src/format/safetensors.ts";

export type Stored = Map<string, StoredTensor>;

export interface Floats {
  shape: number[];
  data: Float32Array;
}

/** The tensors of a checkpoint by the names that names.ts gives them. */
export class Weights {
  private readonly left: Stored;

  /** @param source how messages call the checkpoint */
  constructor(
    stored: Stored,
    readonly source: string,
  ) {
    this.left = new Map(stored);
  }

  names(): string[] {
    return [...this.left.keys()];
  }

  has(name: string): boolean {
    return this.left.has(name);
  }

  /** @throws SlimViTError `bad-model` for a tensor that is missing or has another number of dimensions */
  shape(name: string, rank?: number): number[] {
    const shape = this.left.get(name)?.shape;
    if (!shape) throw this.fault(`tensor "${name}" is missing.`);
    if (rank !== undefined && shape.length !== rank)
      throw this.fault(`tensor "${name}" has shape [${shape}], expected ${rank} dimensions.`);
    return shape;
  }

  /** Takes a tensor out, in f32. @throws SlimViTError `bad-model` for another shape, NaN or Inf, or no float type */
  take(name: string, wanted?: number[]): Floats {
    const shape = this.shape(name);
    if (wanted && shape.join() !== wanted.join())
      throw this.fault(`tensor "${name}" has shape [${shape}], expected [${wanted}].`);
    const data = widen(this.left.get(name)!, name, this.source);
    if (!data.every(Number.isFinite)) throw this.fault(`tensor "${name}" holds NaN or Inf.`);
    this.left.delete(name);
    return { shape, data };
  }

  /** Like `take`, but gives zeros where there is no such tensor. */
  takeOrZeros(name: string, wanted: number[]): Float32Array {
    return this.has(name) ? this.take(name, wanted).data : new Float32Array(wanted.reduce((a, b) => a * b, 1));
  }

  put(name: string, shape: number[], data: Float32Array): void {
    this.left.set(name, { dtype: "F32", shape, data });
  }

  drop(name: string): void {
    this.left.delete(name);
  }

  fault(what: string): SlimViTError {
    return new SlimViTError("bad-model", `${this.source}: ${what}`);
  }
}

function widen({ dtype, data }: StoredTensor, name: string, source: string): Float32Array {
  if (dtype === "F32") return Float32Array.from(data as Float32Array);
  if (dtype === "F64") return Float32Array.from(data as Float64Array);
  if (dtype === "F16") return decodeFloat16(data as Uint16Array);
  if (dtype === "BF16") return new Float32Array(Uint32Array.from(data as Uint16Array, (bits) => bits << 16).buffer);
  throw new SlimViTError("unsupported", `${source}: tensor "${name}" has dtype ${dtype}; expected a float type.`);
}
