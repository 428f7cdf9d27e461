/** The training forward on @tensorflow/tfjs-backend-webgpu. TensorFlow.js is an optional peer dependency. */
import type { WebGPUBackend } from "@tensorflow/tfjs-backend-webgpu";
import { messageOf, SlimViTError, throwIfAborted } from "../../errors.ts";
import { type Manifest, type Model, tensorShapes } from "../../format/model.ts";
import { float32 } from "../../format/read.ts";
import {
  type BlockWeights,
  blockWeights,
  classify,
  embed,
  ownStream,
  runBlock,
  type Stream,
  type Weights,
} from "../../tfjs/forward.ts";
import { explainMerges } from "../../tfjs/merge.ts";
import type { Tensor, TF } from "../../tfjs/ops.ts";
import type { Engine, EngineOptions, OpenEngine, RunOptions, RunOutput } from "../engine.ts";
import { type DeviceRequest, DeviceWatch, queue, requestDevice } from "../gpuDevice.ts";
import { importPackage, type TfPackages } from "../installedPackages.ts";
import { nextMacrotask } from "../nextMacrotask.ts";

const CORE = "@tensorflow/tfjs-core";
const BACKEND = "@tensorflow/tfjs-backend-webgpu";
const NAME = "tfjs-webgpu";

/**
 * Compiles every shader before it returns, without holding the thread.
 *
 * @throws SlimViTError `unsupported` where TensorFlow.js is not installed or there is no adapter, `device-lost`
 */
export const openTfjs: OpenEngine = async (model, options) => {
  const gpu = await acquire(options);
  try {
    return await TfjsEngine.open(gpu, model);
  } catch (error) {
    release(gpu);
    throw error;
  }
};

/** TensorFlow.js has one WebGPU backend, so the engines of a page or worker share one device. */
interface Gpu {
  tf: TF;
  backend: WebGPUBackend;
  watch: DeviceWatch;
  users: number;
  closed: boolean;
}

let shared: Gpu | undefined;
const inTurn = queue();

function acquire(...from: Parameters<typeof start>): Promise<Gpu> {
  return inTurn(async () => {
    if (!shared || shared.closed || shared.watch.isLost) shared = await start(...from);
    shared.users++;
    return shared;
  });
}

function release(gpu: Gpu): void {
  if (--gpu.users > 0) return;
  gpu.closed = true;
  if (gpu.tf.findBackend("webgpu") === (gpu.backend as unknown)) gpu.tf.removeBackend("webgpu"); // destroys its buffers
  gpu.watch.close();
}

async function start(...from: Parameters<typeof loadTf>): Promise<Gpu> {
  const { tf, WebGPUBackend } = await loadTf(...from);
  const device = await requestDevice(NAME, DEVICE);
  const backend = new WebGPUBackend(device, device.adapterInfo);
  if (tf.findBackendFactory("webgpu")) tf.removeBackend("webgpu"); // its own, or that of a lost device
  tf.registerBackend("webgpu", () => backend);
  await tf.setBackend("webgpu");
  // Small tensors that are not on the GPU yet, as in the dry run, would go other ways than later, and leave shaders uncompiled.
  tf.env().set("WEBGPU_CPU_FORWARD", false);
  return { tf, backend, watch: new DeviceWatch(NAME, device), users: 0, closed: false };
}

/** The features and limits that TensorFlow.js requests when it makes the device itself. */
const DEVICE: DeviceRequest = {
  features: ["timestamp-query"],
  limits: [
    "maxComputeWorkgroupStorageSize",
    "maxComputeWorkgroupsPerDimension",
    "maxStorageBufferBindingSize",
    "maxBufferSize",
    "maxComputeWorkgroupSizeX",
    "maxComputeInvocationsPerWorkgroup",
  ],
};

async function loadTf(options: EngineOptions) {
  // The packages' own scripts are no modules: both fill one global.
  const packageOf = async (name: string) => {
    const module = await importPackage(name, options);
    return Object.keys(module).length ? module : (globalThis as { tf?: object }).tf;
  };
  try {
    const [tf, { WebGPUBackend }] = [await packageOf(CORE), await packageOf(BACKEND)] as TfPackages;
    if (!tf?.setBackend || !WebGPUBackend) throw new Error("they do not export what they should");
    return { tf, WebGPUBackend };
  } catch (error) {
    throw new SlimViTError(
      "unsupported",
      `Engine "${NAME}" needs the packages ${CORE} and ${BACKEND}, which are not here (${messageOf(error)}). Run ` +
        `"npm install ${CORE} ${BACKEND}", import { tfjs } from "slimvit/engines/tfjs" and pass engines: [tfjs]; without ` +
        `a bundler, pass engineUrls: { "${CORE}": "URL of its tf-core.min.js", "${BACKEND}": "URL of its ` +
        `tf-backend-webgpu.min.js" }.`,
      { cause: error },
    );
  }
}

class TfjsEngine implements Engine {
  readonly name = NAME;
  readonly threads = 1;
  private disposed = false;

  private constructor(
    private readonly gpu: Gpu,
    private readonly manifest: Manifest,
    private readonly weights: Weights,
    private readonly blocks: BlockWeights[],
  ) {}

  static async open(gpu: Gpu, { manifest, tensors }: Model): Promise<TfjsEngine> {
    const { tf, backend, watch } = gpu;
    const shapes = [...tensorShapes(manifest, manifest.labels.length)];
    const weights: Weights = new Map(shapes.map(([key, shape]) => [key, tf.tensor(float32(tensors, key), shape)]));
    const prepare = (i: number) =>
      tf.tidy(() => blockWeights(tf, manifest, i, weights) as unknown as TensorMap) as unknown as BlockWeights;
    // A dry run asks for every shader at once; the thread is free while they compile.
    tf.env().set("WEBGPU_ENGINE_COMPILE_ONLY", true);
    try {
      tf.tidy(() => {
        let stream = embed(tf, manifest, weights, tf.zeros([1, 3, ...manifest.imageSize]));
        manifest.blocks.forEach((_, i) => {
          stream = runBlock(tf, manifest, i, prepare(i), stream, { lastRowsOnly: true });
        });
        const { logits, features } = classify(tf, manifest, weights, stream);
        tf.concat([logits, features], 1);
      });
    } finally {
      tf.env().set("WEBGPU_ENGINE_COMPILE_ONLY", false);
    }
    await watch.guard(() => backend.checkCompileCompletionAsync());
    return new TfjsEngine(
      gpu,
      manifest,
      weights,
      manifest.blocks.map((_, i) => prepare(i)),
    );
  }

  async run(pixels: Float32Array, options: RunOptions = {}): Promise<RunOutput> {
    if (this.disposed) throw new SlimViTError("disposed", "The engine has been disposed of.");
    throwIfAborted(options.signal);
    const { imageSize } = this.manifest;
    const expected = 3 * imageSize[0] * imageSize[1];
    if (pixels.length !== expected) {
      throw new SlimViTError("bad-input", `pixels has ${pixels.length} numbers; expected ${expected}.`);
    }
    return this.gpu.watch.guard(() => this.infer(pixels, options));
  }

  private async infer(pixels: Float32Array, options: RunOptions): Promise<RunOutput> {
    const { gpu, manifest, weights } = this;
    const { signal, profile, explain } = options;
    const { tf } = gpu;
    const blockMs: number[] = [];
    const seen: Seen = { maps: [], rows: [] };
    let turn = performance.now();
    let stream = tf.tidy(() => embed(tf, manifest, weights, tf.tensor(pixels, [1, 3, ...manifest.imageSize])));
    try {
      if (profile) await finish(tf, stream.x);
      for (const i of manifest.blocks.keys()) {
        if (signal && performance.now() - turn > TURN_MS) {
          await nextMacrotask();
          turn = performance.now();
        }
        throwIfAborted(signal);
        gpu.watch.check(); // a fresh device's backend may have taken the place of this one's
        const start = performance.now();
        stream = this.block(i, stream, options, seen);
        if (!profile) continue;
        await finish(tf, stream.x);
        blockMs.push(performance.now() - start);
      }
      const joined = tf.tidy(() => {
        const { logits, features } = classify(tf, manifest, weights, stream);
        return tf.concat([logits, features], 1); // one wait for both
      });
      const values = (await take(joined)) as Float32Array;
      const classes = manifest.head ? manifest.labels.length : 0;
      return {
        logits: values.slice(0, classes),
        features: values.slice(classes),
        ...(profile && { blockMs }),
        ...(explain && (await explanation(manifest, seen))),
      };
    } finally {
      tf.dispose([stream, ...seen.maps, ...seen.rows] as TensorMap[]);
    }
  }

  /** Frees `stream`. @param seen with `explain`, receives what the block's attention and merge were */
  private block(i: number, stream: Stream, { explain, forcedPairs }: RunOptions, seen: Seen): Stream {
    const { manifest, blocks } = this;
    const { tf } = this.gpu;
    const out = tf.tidy(() => {
      let [map, rows]: (Tensor | undefined)[] = [];
      const watching = {
        onAttention: (p: Tensor) => void (map = tf.reshape(tf.mean(p, [1, 2]), [-1])),
        onMerge: (of: Tensor) => void (rows = of),
      };
      const options = { forcedPairs, lastRowsOnly: true, ...(explain && watching) };
      const next = ownStream(tf, runBlock(tf, manifest, i, blocks[i], stream, options));
      return { next, map, rows } as unknown as TensorMap;
    }) as unknown as { next: Stream; map?: Tensor; rows?: Tensor };
    tf.dispose(stream as TensorMap);
    if (explain) {
      seen.maps[i] = out.map;
      seen.rows[i] = out.rows;
    }
    return out.next;
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    const { tf } = this.gpu;
    tf.dispose([...this.weights.values()]);
    tf.dispose(this.blocks as unknown as TensorMap[]); // a tensor of both is freed once
    release(this.gpu);
  }
}

/**
 * With `explain`, for each block: the mean attention of its heads over its tokens, and the row that each of its rows
 * became.
 */
interface Seen {
  maps: (Tensor | undefined)[];
  rows: (Tensor | undefined)[];
}

/** Frees what was seen. */
async function explanation(manifest: Manifest, { maps, rows }: Seen): Promise<Partial<RunOutput>> {
  const read = (tensors: Seen["maps"]) => Promise.all(tensors.splice(0).map((tensor) => tensor && take(tensor)));
  const [attention, merged] = await Promise.all([read(maps), read(rows)]);
  return {
    attention: attention.map((map) => map ?? new Float32Array(0)),
    ...explainMerges(manifest, merged),
  };
}

/** A container that TensorFlow.js's tidy and dispose search for tensors. */
type TensorMap = Record<string, Tensor>;

/** Milliseconds. With a signal, the event loop gets a turn this often, so that the message of an abort arrives. */
const TURN_MS = 8;

async function take(tensor: Tensor): Promise<Float32Array> {
  try {
    return (await tensor.data()) as Float32Array;
  } finally {
    tensor.dispose();
  }
}

/** Waits until the GPU has computed `x`. */
async function finish(tf: TF, x: Tensor): Promise<void> {
  await take(tf.tidy(() => tf.slice(x, [0, 0, 0], [1, 1, 1])));
}
