/** A graph under construction. Operators are checked against the context first, and each constant is stored once. */
import { messageOf, SlimViTError } from "../../errors.ts";

export type FloatType = "float32" | "float16";

/** ES2025's Float16Array, which browsers have had for longer than WebNN. Without it no graph is made in float16. */
export const { Float16Array } = globalThis as { Float16Array?: new (values: Float32Array) => ArrayBufferView };

/** An operator of MLGraphBuilder, whichever it is. */
type Operator = (...args: unknown[]) => MLOperand | MLOperand[];

export class GraphBuilder {
  private readonly builder: MLGraphBuilder;
  private readonly constants = new Map<string, MLOperand>();

  constructor(
    context: MLContext,
    private readonly limits: MLOpSupportLimits,
    /** of activations, and of the constants that meet them */
    readonly type: FloatType,
  ) {
    this.builder = new MLGraphBuilder(context);
  }

  /**
   * Whether the context supports this operator with these types: each operand that it lists must support one of them.
   */
  has(name: string, types: MLOperandDataType[] = [this.type]): boolean {
    const operands = this.limits[name];
    if (typeof operands !== "object" || typeof this.method(name) !== "function") return false;
    return Object.values(operands).every(
      (operand) =>
        !Array.isArray(operand?.dataTypes) || operand.dataTypes.some((type: MLOperandDataType) => types.includes(type)),
    );
  }

  /** @throws SlimViTError `unsupported` for an operator that the context lacks, or lacks for these types */
  op(name: string, ...args: unknown[]): MLOperand {
    return this.call(name, args) as MLOperand;
  }

  /** Splits an axis into parts of the given lengths. */
  split(x: MLOperand, sizes: number[], axis: number): MLOperand[] {
    return sizes.length === 1 ? [x] : (this.call("split", [x, sizes, { axis }]) as MLOperand[]);
  }

  slice(x: MLOperand, starts: number[], sizes: number[]): MLOperand {
    return sizes.every((size, axis) => size === x.shape[axis]) ? x : this.op("slice", x, starts, sizes);
  }

  reshape(x: MLOperand, shape: number[]): MLOperand {
    return this.op("reshape", x, shape);
  }

  transpose(x: MLOperand, permutation: number[]): MLOperand {
    return this.op("transpose", x, { permutation });
  }

  /** Along an axis, which stays as one of length 1. */
  sum(x: MLOperand, axis: number): MLOperand {
    return this.op("reduceSum", x, { axes: [axis], keepDimensions: true });
  }

  concat(parts: MLOperand[], axis: number): MLOperand {
    return parts.length === 1 ? parts[0] : this.op("concat", parts, axis);
  }

  /** Rows of a matrix, by a list of their numbers that is known now. */
  rows(x: MLOperand, indices: number[]): MLOperand {
    const [first] = indices;
    const isRun = indices.every((row, k) => row === first + k);
    if (isRun) return this.slice(x, [first, 0], [indices.length, x.shape[1]]);
    return this.op("gather", x, this.constant("int32", [indices.length], Int32Array.from(indices)), { axis: 0 });
  }

  input(name: string, shape: number[]): MLOperand {
    const x = this.builder.input(name, { dataType: "float32", shape });
    return this.type === "float32" ? x : this.op("cast", x, this.type);
  }

  /** Floats in the type of the activations. The same key gives the same constant. */
  floats(key: string, shape: number[], values: () => Float32Array): MLOperand {
    const known = this.constants.get(key);
    if (known) return known;
    const data = this.type === "float16" ? new Float16Array!(values()) : values();
    const constant = this.constant(this.type, shape, data);
    this.constants.set(key, constant);
    return constant;
  }

  scalar(value: number): MLOperand {
    return this.floats(`scalar ${value}`, [1], () => Float32Array.of(value));
  }

  constant(dataType: MLOperandDataType, shape: number[], data: ArrayBufferView): MLOperand {
    return this.builder.constant({ dataType, shape }, data as BufferSource);
  }

  /** @throws SlimViTError `unsupported` */
  async build(outputs: Record<string, MLOperand>): Promise<MLGraph> {
    try {
      return await this.builder.build(outputs);
    } catch (error) {
      throw unsupported(`this context refused the whole graph (${messageOf(error)})`, error);
    }
  }

  private method(name: string): Operator | undefined {
    return (this.builder as unknown as Record<string, Operator>)[name];
  }

  private call(name: string, args: unknown[]): MLOperand | MLOperand[] {
    const method = this.method(name);
    if (!method) throw unsupported(`this browser has no operator "${name}"`);
    try {
      return method.apply(this.builder, args);
    } catch (error) {
      throw unsupported(`this context refused operator "${name}" (${messageOf(error)})`, error);
    }
  }
}

export function unsupported(fault: string, cause?: unknown): SlimViTError {
  return new SlimViTError("unsupported", `Engine "webnn" cannot run: ${fault}.`, { cause });
}
