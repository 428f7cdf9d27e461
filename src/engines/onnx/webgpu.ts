/** The same graph on onnxruntime-web's WebGPU kernels. */
import { encodeFloat16 } from "../../format/float16.ts";
import type { EngineOptions, OpenEngine } from "../engine.ts";
import { type DeviceRequest, DeviceWatch, queue, requestDevice } from "../gpuDevice.ts";
import {
  createSession,
  notLoaded,
  OnnxEngine,
  type OpenSession,
  PACKAGE,
  type Runtime,
  runtimeFrom,
  setUp,
  WEBGPU_BUILD,
} from "./engine.ts";

/**
 * Computes in f16 where the weights are f16, no tokens merge and the adapter has shader-f16, else in f32. Each engine
 * has its own device, and destroying it frees all that the engine held.
 * @throws SlimViTError as `openOnnx`; `unsupported` without an adapter; `device-lost`
 */
export const openOnnxWebgpu: OpenEngine = async (model, options) => {
  const device = await requestDevice("onnx-webgpu", DEVICE); // before the download, which is large
  try {
    const watch = new DeviceWatch("onnx-webgpu", device);
    const runtime = await loadRuntime(options);
    // Which tokens merge depends on the last bits of their keys, which f16 does not have.
    const merges = model.manifest.blocks.some(({ merge }) => merge > 0);
    const half = model.dtype === "f16" && device.features.has(HALF) && !merges ? encodeFloat16 : undefined;
    const open: OpenSession = (graph) =>
      watch.guard(() => inTurn(() => createSession(runtime, model, { name: "webgpu", device }, { half, ...graph })));
    return new OnnxEngine("onnx-webgpu", runtime, model, await open({}), open, 1, watch);
  } catch (error) {
    device.destroy();
    throw error;
  }
};

const HALF = "shader-f16";

/** The features and limits that onnxruntime-web requests when it makes the device itself. */
const DEVICE: DeviceRequest = {
  features: [HALF, "subgroups"],
  limits: [
    "maxBindGroups",
    "maxBufferSize",
    "maxStorageBufferBindingSize",
    "maxStorageBuffersPerShaderStage",
    "maxComputeWorkgroupStorageSize",
    "maxComputeInvocationsPerWorkgroup",
    "maxComputeWorkgroupSizeX",
    "maxComputeWorkgroupSizeY",
    "maxComputeWorkgroupSizeZ",
    "maxComputeWorkgroupsPerDimension",
  ],
};

async function loadRuntime(options: EngineOptions): Promise<Runtime> {
  const { [WEBGPU_BUILD]: build, [PACKAGE]: main } = options.engineUrls ?? {};
  const name = build === undefined && main !== undefined ? PACKAGE : WEBGPU_BUILD;
  const url = build ?? main;
  try {
    const runtime = await runtimeFrom(name, options);
    setUp(runtime, 1, url);
    return runtime;
  } catch (error) {
    throw notLoaded("onnx-webgpu", url, error);
  }
}

/** onnxruntime-web refuses to open a session while it opens another. */
const inTurn = queue();
