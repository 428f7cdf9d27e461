/** Chooses the engine: the one asked for, or the fastest of those that are here. */
import type { Model } from "../format/model.ts";
import type { EngineName } from "./engine.ts";
import type { OpenOptions } from "./fastest.ts";
import { GPU_ENGINES, loadGpuEngines, type OpenedEngine, openNamed, openWithoutGpu } from "./named.ts";

/**
 * @param name "auto" takes the fastest that agrees with the manifest's self-test, measured with this model: of `simd` (or
 * what opens in its place) and those whose packages the app names in `engineUrls`
 * @throws SlimViTError as `openNamed`, and `aborted`
 */
export async function openEngine(
  name: EngineName | "auto",
  model: Model,
  options: OpenOptions = {},
): Promise<OpenedEngine> {
  if (name !== "auto") return { ...(await openNamed(name, model, options)), tried: [], reason: "it was asked for" };
  const rivals = rivalsOf(options.engineUrls);
  if (rivals.length === 0) return openWithoutGpu(model, options);
  const gpu = await loadGpuEngines(options.engineUrls).catch(() => undefined); // that file also measures
  return gpu ? gpu.openFastest(rivals, model, options, { openNamed, openWithoutGpu }) : openWithoutGpu(model, options);
}

/** Only what is named: whether a package is installed would show when it is downloaded. */
function rivalsOf(urls: Record<string, string> = {}): EngineName[] {
  const has = (...names: string[]) => names.some((name) => Object.hasOwn(urls, name));
  const rivals: EngineName[] = [];
  if (has("onnxruntime-web")) rivals.push("onnx-wasm");
  if (has(GPU_ENGINES, "onnxruntime-web/webgpu")) rivals.push("onnx-webgpu");
  if (has(GPU_ENGINES, "@tensorflow/tfjs-backend-webgpu")) rivals.push("tfjs-webgpu");
  return rivals;
}
