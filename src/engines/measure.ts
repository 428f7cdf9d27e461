/**
 * Measures the engines that are here with the loaded model, and remembers which was the fastest. In webgpu.js, as most
 * pages have but one.
 */

import { messageOf, throwIfAborted } from "../errors.ts";
import type { Model } from "../format/model.ts";
import { selfTestPixels } from "../format/write.ts";
import { keepChoice } from "../loading/cache.ts";
import { type Choice, gpuName, keyOf } from "./cachedChoice.ts";
import type { Engine, EngineName, EngineOptions } from "./engine.ts";
import type { CheckedEngine, OpenedEngine, openNamed, openWithoutGpu } from "./registry.ts";

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

/** A rival that takes longer to load and to open is left out; the line may be slow. */
const OPEN_MS = 30_000;

/**
 * Of the engine that opens without a GPU, and its rivals.
 *
 * @throws SlimViTError as `openWithoutGpu`, and `aborted`; what ails a rival is told in `tried`
 */
export async function openFastest(
  model: Model,
  options: OpenOptions,
  rivals: EngineName[],
  openers: Openers,
): Promise<OpenedEngine> {
  const gpu = rivals.some(needsGpu) ? await gpuName() : undefined;
  const canRun = (name: EngineName) => !needsGpu(name) || !!gpu;
  const opened = await openers.openWithoutGpu(model, options);
  const { best, ms } = await measureAll(opened, rivals.filter(canRun), model, options, openers);
  for (const engine of rivals) if (!canRun(engine)) best.tried.push({ engine, reason: "There is no WebGPU adapter." });
  if (ms === undefined) return { ...best, reason: "no other opened" };
  const { engine, tried } = best;
  const reason = `the fastest, ${ms.toFixed(1)} ms a run, measured`;
  const choice: Choice = { at: Date.now(), engine: engine.name, tried, reason, gpu };
  try {
    if (options.keeps) await keepChoice(keyOf(model, options), JSON.stringify(choice));
  } catch {} // measured again next time
  return { ...best, reason: `${reason} here` };
}

const needsGpu = (name: EngineName) => name.endsWith("webgpu");

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
        rival = await inTime(openNamed(name, model, options));
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

/** @throws Error where it takes too long; what opens later is disposed of */
async function inTime(opening: Promise<CheckedEngine>): Promise<CheckedEngine> {
  let timer: unknown;
  const late = new Promise<undefined>((resolve) => (timer = setTimeout(resolve, OPEN_MS)));
  const opened = await Promise.race([opening, late]).finally(() => clearTimeout(timer as number));
  if (opened) return opened;
  void opening.then(({ engine }) => engine.dispose()).catch(() => {});
  throw new Error(`It was not open after ${OPEN_MS / 1000} s.`);
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
