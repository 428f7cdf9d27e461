/** The same graph by onnxruntime-web's WebGPU kernels. */
import { encodeFloat16 } from "../../format/float16.ts";
import type { OpenEngine } from "../engine.ts";
import { DeviceWatch, requestAdapter } from "../gpu.ts";
import {
  createSession,
  notLoaded,
  OnnxEngine,
  PACKAGE,
  type Runtime,
  runtimeFrom,
  setUp,
  WEBGPU_BUILD,
} from "./engine.ts";
import { writeOnnx } from "./graph.ts";

/**
 * Computes in f16 where the weights are f16 and the adapter has shader-f16, else in f32.
 * @throws SlimViTError as `openOnnx`; `unsupported` without an adapter; `device-lost` once onnxruntime-web's device is
 * gone, of which it has one a page or worker
 */
export const openOnnxWebgpu: OpenEngine = async (model, { engineUrls }) => {
  const adapter = await requestAdapter("onnx-webgpu");
  const url = engineUrls?.[WEBGPU_BUILD] ?? engineUrls?.[PACKAGE];
  let runtime: Runtime;
  try {
    runtime = await (url === undefined ? import("onnxruntime-web/webgpu") : runtimeFrom(url));
  } catch (error) {
    throw notLoaded("onnx-webgpu", url, error);
  }
  setUp(runtime, 1, url);
  const half = model.dtype === "f16" && adapter.features.has("shader-f16");
  const graph = writeOnnx(model, half ? encodeFloat16 : undefined);
  const session = await createSession(runtime, model, "webgpu", graph);
  const watch = new DeviceWatch("onnx-webgpu", (await runtime.env.webgpu.device) as GPUDevice);
  return new OnnxEngine("onnx-webgpu", runtime, session, model.manifest, 1, watch);
};
