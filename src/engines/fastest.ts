/**
 * Measures the engines that are here with the loaded model, and remembers which was the fastest. In webgpu.js, as most
 * pages have but one.
 */
import { openChoices } from "../cache.ts";
import { messageOf, throwIfAborted } from "../errors.ts";
import type { Model } from "../format/model.ts";
import { selfTestPixels } from "../format/write.ts";
import type { Engine, EngineName, EngineOptions } from "./engine.ts";
import { type CheckedEngine, GPU_ENGINES, type OpenedEngine, type openNamed, type openWithoutGpu } from "./named.ts";

export interface OpenOptions extends EngineOptions {
  signal?: AbortSignal;
  /** what was measured on earlier visits may be believed, and is kept */
  keeps?: boolean;
}

/** The worker's, which has the engines. */
export interface Openers {
  openNamed: typeof openNamed;
  openWithoutGpu: typeof openWithoutGpu;
}

/** Runs of each engine, and milliseconds after which no other is begun. */
const RUNS = 5;
const ENOUGH_MS = 1000;

/** Browsers, drivers and machines change. */
const KEPT_MS = 30 * 24 * 3600 * 1000;

/**
 * Of the engine that opens without a GPU, and those whose packages `options.engineUrls` names.
 *
 * @throws SlimViTError as `openWithoutGpu`, and `aborted`; what ails a rival is told in `tried`
 */
export async function openFastest(model: Model, options: OpenOptions, openers: Openers): Promise<OpenedEngine> {
  const rivals = rivalsOf(options.engineUrls);
  const adapter = rivals.some(needsGpu) ? await globalThis.navigator?.gpu?.requestAdapter() : undefined;
  const key = keyOf(rivals, model, options, adapter?.info);
  const choices = options.keeps ? openChoices() : undefined;
  const kept = await openKept(await choices?.get(key).catch(() => undefined), model, options, openers);
  if (kept) return kept;
  const opened = await openers.openWithoutGpu(model, options);
  const { best, ms } = await measureAll(
    opened,
    adapter ? rivals : rivals.filter((name) => !needsGpu(name)),
    model,
    options,
    openers,
  );
  if (!adapter) {
    for (const engine of rivals.filter(needsGpu)) best.tried.push({ engine, reason: "There is no WebGPU adapter." });
  }
  if (ms === undefined) return best;
  const { engine, tried } = best;
  const reason = `the fastest, ${ms.toFixed(1)} ms a run, measured`;
  const choice = { at: Date.now(), engine: engine.name, tried, reason };
  await choices?.put(key, JSON.stringify(choice)).catch(() => {}); // measured again next time
  return { ...best, reason: `${reason} here` };
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

const needsGpu = (name: EngineName) => name.endsWith("webgpu");

/** Of a device, a model and what else the times depend on. */
function keyOf(
  rivals: EngineName[],
  { manifest, dtype }: Model,
  { threads, engineUrls }: OpenOptions,
  { vendor, architecture, device, description }: Partial<GPUAdapterInfo> = {},
): string {
  const { userAgent, hardwareConcurrency } = globalThis.navigator ?? {};
  const weights = manifest.weights.find((entry) => entry.dtype === dtype)?.sha256;
  const machine = [userAgent, hardwareConcurrency, vendor, architecture, device, description];
  return JSON.stringify([weights, threads, rivals, engineUrls, machine]);
}

/** @returns undefined where nothing is kept, or it does not open any more */
async function openKept(
  kept: string | undefined,
  model: Model,
  options: OpenOptions,
  { openNamed }: Openers,
): Promise<OpenedEngine | undefined> {
  try {
    const { at, engine, tried, reason } = JSON.parse(kept ?? "{}");
    if (!(Date.now() - at < KEPT_MS)) return undefined;
    return { ...(await openNamed(engine, model, options)), tried, reason: `${reason} on an earlier visit` };
  } catch {
    return undefined;
  }
}

/** Two engines are open at a time, the best so far and its rival. `ms` is undefined where there is but one. */
async function measureAll(
  best: OpenedEngine,
  rivals: EngineName[],
  model: Model,
  options: OpenOptions,
  { openNamed }: Openers,
): Promise<{ best: OpenedEngine; ms?: number }> {
  const { tried } = best;
  const pixels = selfTestPixels(model.manifest, 1);
  let bestMs: number | undefined;
  try {
    for (const name of rivals) {
      throwIfAborted(options.signal);
      if (name === best.engine.name || tried.some(({ engine }) => engine === name)) continue;
      let rival: CheckedEngine | undefined;
      try {
        rival = await openNamed(name, model, options);
        const ms = await measure(rival.engine, pixels);
        bestMs ??= await measure(best.engine, pixels);
        const [slower, slowerMs] = ms < bestMs ? [best.engine, bestMs] : [rival.engine, ms];
        if (ms < bestMs) [best, bestMs] = [{ ...best, ...rival }, ms];
        tried.push({ engine: slower.name, ms: slowerMs, reason: `slower: ${slowerMs.toFixed(1)} ms a run` });
        slower.dispose();
      } catch (error) {
        rival?.engine.dispose();
        tried.push({ engine: name, reason: messageOf(error) });
      }
    }
    throwIfAborted(options.signal);
  } catch (error) {
    best.engine.dispose();
    throw error;
  }
  return { best, ms: bestMs };
}

/** The median; the engine is warm. */
async function measure(engine: Engine, pixels: Float32Array): Promise<number> {
  const times: number[] = [];
  const start = performance.now();
  while (times.length < RUNS && performance.now() - start < ENOUGH_MS) {
    const begun = performance.now();
    await engine.run(pixels);
    times.push(performance.now() - begun);
  }
  return times.sort((a, b) => a - b)[times.length >> 1];
}
