/** The slim network as one graph of the Web Neural Network API, which the system runs on its CPU, GPU or NPU. */
import { messageOf, SlimViTError, throwIfAborted } from "../../errors.ts";
import { type Manifest, type Model, patchGrid } from "../../format/model.ts";
import type { Engine, EngineOptions, RunOptions, RunOutput } from "../engine.ts";
import { DeviceWatch } from "../gpuDevice.ts";
import { type FloatType, GraphBuilder } from "./builder.ts";
import { INPUT, keptPatches, writeNetwork } from "./network.ts";

const NAME = "webnn";
const OUTPUT = "output";

/**
 * @param options.webnn which device; the browser's choice where it is not said
 * @throws SlimViTError `unsupported` where there is no WebNN, no context or not every operator; `device-lost`
 */
export async function openWebnn(model: Model, { webnn = {} }: EngineOptions): Promise<Engine> {
  const context = await requestContext(webnn);
  const watch = new DeviceWatch(NAME, context, "its context");
  try {
    return await watch.guard(() => WebnnEngine.open(context, watch, model, webnn.deviceType));
  } catch (error) {
    context.destroy();
    throw error;
  }
}

async function requestContext(options: MLContextOptions): Promise<MLContext> {
  const ml = globalThis.navigator?.ml;
  if (!ml) throw refused("has no WebNN; docs/webnn.md says where there is one");
  try {
    return await ml.createContext(options);
  } catch (error) {
    const device = options.deviceType ? ` for device "${options.deviceType}"` : "";
    throw refused(`gave no WebNN context${device} (${messageOf(error)})`, error);
  }
}

function refused(fault: string, cause?: unknown): SlimViTError {
  return new SlimViTError("unsupported", `Engine "${NAME}" cannot run: this browser ${fault}.`, { cause });
}

class WebnnEngine implements Engine {
  readonly name = NAME;
  readonly threads = 1;
  private disposed = false;

  private constructor(
    private readonly context: MLContext,
    private readonly watch: DeviceWatch,
    private readonly manifest: Manifest,
    private readonly graph: MLGraph,
    private readonly input: MLTensor | undefined,
    private readonly output: MLTensor,
    readonly deviceType?: MLDeviceType,
  ) {}

  static async open(
    context: MLContext,
    watch: DeviceWatch,
    model: Model,
    deviceType?: MLDeviceType,
  ): Promise<WebnnEngine> {
    const limits = context.opSupportLimits();
    const builder = new GraphBuilder(context, limits, floatType(limits, model));
    const { logits, features } = writeNetwork(builder, model);
    let output = builder.concat([logits, features], 1);
    if (builder.type !== "float32") output = builder.op("cast", output, "float32");
    const graph = await builder.build({ [OUTPUT]: output });
    const { manifest } = model;
    const patches = keptPatches(manifest).length;
    const tensor = (shape: number[], use: object) => context.createTensor({ dataType: "float32", shape, ...use });
    return new WebnnEngine(
      context,
      watch,
      manifest,
      graph,
      patches ? await tensor([patches, 3 * manifest.patchSize ** 2], { writable: true }) : undefined,
      await tensor([...output.shape], { readable: true }),
      deviceType,
    );
  }

  async run(pixels: Float32Array, options: RunOptions = {}): Promise<RunOutput> {
    if (this.disposed) throw new SlimViTError("disposed", "The engine has been disposed of.");
    for (const option of ["profile", "explain"] as const) {
      if (options[option]) {
        throw new SlimViTError(
          "unsupported",
          `Engine "${NAME}" cannot ${option}; use "simd", "tfjs-webgpu" or "reference".`,
        );
      }
    }
    const { imageSize, labels, embedDim } = this.manifest;
    const expected = 3 * imageSize[0] * imageSize[1];
    if (pixels.length !== expected) {
      throw new SlimViTError(
        "bad-input",
        `pixels has ${pixels.length} numbers; expected ${expected}, 3 × ${imageSize[0]} × ${imageSize[1]}.`,
      );
    }
    throwIfAborted(options.signal);
    const values = await this.watch.guard(() => this.infer(pixels));
    throwIfAborted(options.signal);
    return {
      logits: values.slice(0, labels.length),
      features: values.slice(labels.length, labels.length + embedDim),
    };
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.input?.destroy();
    this.output.destroy();
    this.graph.destroy();
    this.watch.close();
  }

  private async infer(pixels: Float32Array): Promise<Float32Array> {
    const { context, input } = this;
    if (input) context.writeTensor(input, cutPatches(this.manifest, pixels));
    context.dispatch(this.graph, input ? { [INPUT]: input } : {}, { [OUTPUT]: this.output });
    return new Float32Array(await context.readTensor(this.output));
  }
}

/** f16 where the weights are and every operator takes it. */
function floatType(limits: MLOpSupportLimits, { dtype }: Model): FloatType {
  if (dtype !== "f16") return "float32";
  const takesHalf = (name: string) =>
    Object.values(limits[name] ?? {}).every((operand) => operand?.dataTypes?.includes("float16") ?? true);
  return ["gemm", "matmul", "softmax", "add", "layerNormalization", "gelu", "cast"].every(takesHalf)
    ? "float16"
    : "float32";
}

/** [kept patches, 3 × patchSize²] of [3, height, width]: the patches that the first block keeps, each in its weight's order. */
function cutPatches(manifest: Manifest, pixels: Float32Array): Float32Array<ArrayBuffer> {
  const { patchSize: p, imageSize } = manifest;
  const [height, width] = imageSize;
  const columns = patchGrid(manifest)[1];
  const kept = keptPatches(manifest);
  const out = new Float32Array(kept.length * 3 * p * p);
  let at = 0;
  for (const patch of kept) {
    const corner = Math.floor(patch / columns) * p * width + (patch % columns) * p;
    for (let channel = 0; channel < 3; channel++) {
      for (let row = 0; row < p; row++, at += p) {
        const from = channel * height * width + corner + row * width;
        out.set(pixels.subarray(from, from + p), at);
      }
    }
  }
  return out;
}
