/** The slim network as one graph of the Web Neural Network API, which the system runs on its CPU, GPU or NPU. */
import { messageOf, SlimViTError, throwIfAborted } from "../../errors.ts";
import { featureDim, type Manifest, type Model, patchGrid, tokenCounts } from "../../format/model.ts";
import type { Engine, EngineOptions, RunOptions, RunOutput } from "../engine.ts";
import { DeviceWatch } from "../gpuDevice.ts";
import { Float16Array, unsupported } from "./builder.ts";
import { compile, type FloatType, type Program } from "./compile.ts";
import { explainMerges } from "./explain.ts";
import { INPUT, keptPatches } from "./network.ts";

const NAME = "webnn";

/**
 * @param options.webnn which device; default is the browser's choice
 * @throws SlimViTError `unsupported` without WebNN, a context or one of the operators; `device-lost`
 */
export async function openWebnn(model: Model, { webnn = {} }: EngineOptions): Promise<Engine> {
  const context = await requestContext(webnn);
  const watch = new DeviceWatch(NAME, context, "its context");
  try {
    return await watch.guard(async () => {
      const { program, type } = await compileIn(typesOf(context, model), context, model);
      return new WebnnEngine(context, watch, model, program, type, webnn.deviceType);
    });
  } catch (error) {
    context.destroy();
    throw error;
  }
}

async function requestContext(options: MLContextOptions): Promise<MLContext> {
  const ml = globalThis.navigator?.ml;
  if (!ml) throw unsupported("this browser has no WebNN; docs/webnn.md says where there is one");
  try {
    return await ml.createContext(options);
  } catch (error) {
    const device = options.deviceType ? ` for device "${options.deviceType}"` : "";
    throw unsupported(`this browser gave no WebNN context${device} (${messageOf(error)})`, error);
  }
}

/**
 * Types of the arithmetic, best first. f16 comes first where the weights are f16, but not every context supports it.
 */
function typesOf(context: MLContext, { dtype, manifest }: Model): FloatType[] {
  // Which tokens merge depends on the last bits of their keys, and rows beyond 2048 have no number in f16.
  const merges = manifest.blocks.some(({ merge }) => merge > 0);
  const { dataTypes } = context.opSupportLimits().constant as MLTensorLimits;
  const isHalf = dtype === "f16" && Float16Array && !merges && dataTypes.includes("float16");
  return isHalf ? ["float16", "float32"] : ["float32"];
}

/** Compiles in the first type for which the context has every operator. */
async function compileIn(
  [type, ...others]: FloatType[],
  context: MLContext,
  model: Model,
): Promise<{ program: Program; type: FloatType }> {
  try {
    return { program: await compile(context, model, type), type };
  } catch (error) {
    if (!others.length) throw error;
    return compileIn(others, context, model);
  }
}

class WebnnEngine implements Engine {
  readonly name = NAME;
  readonly threads = 1;
  private disposed = false;
  /** compiled when it is first asked for; it has the weights once more */
  private explaining: Promise<Program> | undefined;

  constructor(
    private readonly context: MLContext,
    private readonly watch: DeviceWatch,
    private readonly model: Model,
    private readonly program: Program,
    private readonly type: FloatType,
    readonly deviceType?: MLDeviceType,
  ) {}

  async run(pixels: Float32Array, { signal, profile, explain }: RunOptions = {}): Promise<RunOutput> {
    if (this.disposed) throw new SlimViTError("disposed", "The engine has been disposed of.");
    if (profile) throw new SlimViTError("unsupported", `Engine "${NAME}" cannot profile; use "simd" or "tfjs-webgpu".`);
    const { imageSize } = this.model.manifest;
    const expected = 3 * imageSize[0] * imageSize[1];
    if (pixels.length !== expected)
      throw new SlimViTError("bad-input", `pixels has ${pixels.length} numbers; expected ${expected}.`);
    throwIfAborted(signal);
    const output = await this.watch.guard(() => this.infer(pixels, explain));
    throwIfAborted(signal);
    return output;
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.program.destroy();
    void this.explaining?.then((program) => program.destroy()).catch(() => {});
    this.watch.close();
  }

  private async infer(pixels: Float32Array, explain?: boolean): Promise<RunOutput> {
    const { manifest } = this.model;
    if (explain) this.explaining ??= compile(this.context, this.model, this.type, true);
    const program = explain ? await this.explaining! : this.program;
    const results = await program.run({ [INPUT]: cutPatches(manifest, pixels) });
    const classes = manifest.head ? manifest.labels.length : 0;
    const output: RunOutput = {
      logits: results.output.slice(0, classes),
      features: results.output.slice(classes, classes + featureDim(manifest)),
    };
    if (explain) {
      output.attention = manifest.blocks.map((_, i) => results[`map${i}`] ?? new Float32Array(0));
      Object.assign(output, explainMerges(manifest, tokenCounts(manifest), results));
    }
    return output;
  }
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
