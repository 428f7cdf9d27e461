/**
 * The part of the Web Neural Network API, https://www.w3.org/TR/webnn/, that the engine uses. TypeScript's lib does not
 * have it.
 */

type MLDeviceType = "cpu" | "gpu" | "npu";
type MLPowerPreference = "default" | "high-performance" | "low-power";
type MLOperandDataType = "float32" | "float16" | "int32" | "uint32" | "int64" | "uint64" | "int8" | "uint8" | "int4";

interface MLContextOptions {
  deviceType?: MLDeviceType;
  powerPreference?: MLPowerPreference;
}

interface ML {
  createContext(options?: MLContextOptions): Promise<MLContext>;
}

interface Navigator {
  readonly ml?: ML;
}

interface WorkerNavigator {
  readonly ml?: ML;
}

interface MLOperandDescriptor {
  dataType: MLOperandDataType;
  shape: number[];
}

interface MLTensorLimits {
  dataTypes: MLOperandDataType[];
  rankRange?: { min: number; max: number };
}

/** Limits by operator, then by operand. */
type MLOpSupportLimits = Record<string, Record<string, MLTensorLimits> | number | string | MLTensorLimits>;

interface MLContext {
  readonly lost: Promise<{ message: string }>;
  opSupportLimits(): MLOpSupportLimits;
  createTensor(descriptor: MLOperandDescriptor & { readable?: boolean; writable?: boolean }): Promise<MLTensor>;
  writeTensor(tensor: MLTensor, data: BufferSource): void;
  readTensor(tensor: MLTensor): Promise<ArrayBuffer>;
  dispatch(graph: MLGraph, inputs: Record<string, MLTensor>, outputs: Record<string, MLTensor>): void;
  destroy(): void;
}

interface MLTensor {
  destroy(): void;
}

interface MLGraph {
  destroy(): void;
}

interface MLOperand {
  readonly dataType: MLOperandDataType;
  readonly shape: readonly number[];
}

declare class MLGraphBuilder {
  constructor(context: MLContext);
  input(name: string, descriptor: MLOperandDescriptor): MLOperand;
  constant(descriptor: MLOperandDescriptor, data: BufferSource): MLOperand;
  build(outputs: Record<string, MLOperand>): Promise<MLGraph>;
}
