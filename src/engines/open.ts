/** Chooses the engine: the one asked for, or the fastest of those that are here. */
import type { Model } from "../format/model.ts";
import type { EngineName } from "./engine.ts";
import type { OpenOptions } from "./fastest.ts";
import { checkEngineName, loadGpuEngines, type OpenedEngine, openNamed, openWithoutGpu } from "./named.ts";

/**
 * @param name "auto" takes the fastest that agrees with the manifest's self-test, measured with this model: of `simd` (or
 * what opens in its place) and those whose packages the app names in `engineUrls`
 * @throws SlimViTError `bad-option` for a name that is none; as `openNamed`, and `aborted`
 */
export async function openEngine(
  name: EngineName | "auto",
  model: Model,
  options: OpenOptions = {},
): Promise<OpenedEngine> {
  checkEngineName(name);
  if (name !== "auto") return { ...(await openNamed(name, model, options)), tried: [], reason: "it was asked for" };
  const { engineUrls = {} } = options;
  const isNamed = Object.keys(engineUrls).length > 0;
  const gpu = isNamed && (await loadGpuEngines(engineUrls).catch(() => undefined)); // that file also measures
  return gpu ? gpu.openFastest(model, options, { openNamed, openWithoutGpu }) : openWithoutGpu(model, options);
}
