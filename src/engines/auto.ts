/** Chooses the engine: the one asked for, or the fastest of those that are here. */
import { messageOf } from "../errors.ts";
import type { Model } from "../format/model.ts";
import { hasGpu } from "./adapter.ts";
import { openKept } from "./cachedChoice.ts";
import type { EngineName } from "./engine.ts";
import { findInstalled } from "./installedPackages.ts";
import type { OpenOptions } from "./measure.ts";
import {
  checkEngineName,
  GPU_ENGINES,
  loadGpuEngines,
  loadWebgpuEngine,
  type OpenedEngine,
  openNamed,
  openWithoutGpu,
} from "./registry.ts";

/**
 * @param name "auto" takes the fastest that agrees with the manifest's self-test, measured with this model: of `simd` (or
 * what opens in its place), of `webgpu` where there is a GPU, and those whose packages the app names in `engineUrls` or, in browsers, has installed
 * @throws SlimViTError `bad-option` for a name that is none; as `openNamed`, and `aborted`
 */
export async function openEngine(
  name: EngineName | "auto",
  model: Model,
  options: OpenOptions = {},
): Promise<OpenedEngine> {
  checkEngineName(name);
  if (name !== "auto") return { ...(await openNamed(name, model, options)), tried: [], reason: "it was asked for" };
  const kept = options.keeps && (await openKept(model, options));
  if (kept) return kept;
  const others = [...new Set([...findNamed(options.engineUrls), ...(await findInstalled())])];
  const hasOwn = await hasGpu();
  const rivals: EngineName[] = hasOwn ? ["webgpu", ...others] : others;
  const load = hasOwn ? loadWebgpuEngine : loadGpuEngines; // either file also measures
  const gpu = rivals.length && (await load(options.engineUrls).catch(messageOf));
  if (gpu && typeof gpu !== "string") return gpu.openFastest(model, options, rivals, { openNamed, openWithoutGpu });
  const opened = await openWithoutGpu(model, options);
  return gpu ? { ...opened, reason: gpu } : opened;
}

function findNamed(urls: Record<string, string> = {}): EngineName[] {
  const has = (...names: string[]) => names.some((name) => Object.hasOwn(urls, name));
  const named: EngineName[] = [];
  if (has("onnxruntime-web")) named.push("onnx-wasm");
  if (has(GPU_ENGINES, "onnxruntime-web/webgpu")) named.push("onnx-webgpu");
  if (has(GPU_ENGINES, "@tensorflow/tfjs-backend-webgpu")) named.push("tfjs-webgpu");
  return named;
}
