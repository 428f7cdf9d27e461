/** Chooses the engine: the requested one, or with "auto" the fastest one here, measured with the loaded model. */
import { messageOf, throwIfAborted } from "../errors.ts";
import type { Model } from "../format/model.ts";
import { selfTestPixels } from "../format/write.ts";
import type { WebnnOptions } from "../protocol.ts";
import { keepChosen, openChosenBefore } from "./cachedChoice.ts";
import { deviceName } from "./devices.ts";
import type { Engine, EngineName, EngineOptions } from "./engine.ts";
import { type CheckedEngine, type OpenedEngine, openNamed, openWithoutDevice } from "./opening.ts";
import { candidates, checkEngineName, type Device, deviceOf } from "./registry.ts";

export interface OpenOptions extends EngineOptions {
  signal?: AbortSignal;
  /** Whether measurements of earlier visits may be used and this visit's are kept. */
  keeps?: boolean;
  /** When false, "auto" gives up on weights with which the first engine computes wrong results; default true. */
  mayUseOthers?: boolean;
}

/** Timed runs of each engine, and the milliseconds after which no further run is started. */
const RUNS = 5;
const ENOUGH_MS = 1000;

/** Milliseconds. A rival that takes longer to load and open is left out, because the connection may be slow. */
const OPEN_MS = 30_000;

/**
 * @param name "auto" takes the fastest that agrees with the model's self-test: of `simd` (or what opens in its place), our
 *   other engines, and those whose packages the app hands over with `engines` or names in `engineUrls`
 * @throws SlimViTError `bad-option` for an unknown name; as `openNamed`, and `aborted`
 */
export async function openEngine(
  name: EngineName | "auto",
  model: Model,
  options: OpenOptions = {},
): Promise<OpenedEngine> {
  checkEngineName(name);
  if (name !== "auto") return { ...(await openNamed(name, model, options)), tried: [], reason: "it was asked for" };
  const chosen = options.keeps && (await openChosenBefore(model, options));
  if (chosen) return chosen;
  const rivals = candidates(options);
  return rivals.length ? openFastest(model, options, rivals) : openWithoutDevice(model, options, options.mayUseOthers);
}

/**
 * The fastest of the rivals and the engine that opens without any device.
 *
 * @throws SlimViTError as `openWithoutDevice`, and `aborted`; a rival's fault is reported in `tried`
 */
async function openFastest(model: Model, options: OpenOptions, rivals: EngineName[]): Promise<OpenedEngine> {
  const devices = await namesOfDevices(rivals);
  const canRun = (name: EngineName) => devices[deviceOf(name) ?? "none"] !== "";
  const opened = await openWithoutDevice(model, options, options.mayUseOthers);
  const { best, ms } = await measureAll(opened, rivals.filter(canRun), model, options);
  for (const engine of rivals)
    if (!canRun(engine)) best.tried.push({ engine, reason: NO_DEVICE[deviceOf(engine) as Device] });
  if (ms === undefined) return { ...best, reason: "no other opened" };
  const reason = `the fastest, ${ms.toFixed(1)} ms a run, measured`;
  if (options.keeps) {
    const { name: engine, deviceType } = best.engine;
    await keepChosen(model, options, { engine, deviceType, tried: best.tried, reason, devices });
  }
  return { ...best, reason: `${reason} here` };
}

const NO_DEVICE: Record<Device, string> = {
  gpu: "There is no WebGPU adapter.",
  "hardware-gpu": "There is no WebGPU adapter of a real GPU.",
  npu: "There is no WebNN here.",
};

/** Names of the devices that the engines need, empty where there is none. */
async function namesOfDevices(engines: EngineName[]): Promise<Record<string, string>> {
  const devices = new Set(engines.map(deviceOf).filter((device) => device !== undefined));
  return Object.fromEntries(await Promise.all([...devices].map(async (one) => [one, await deviceName(one)] as const)));
}

/** Two engines are open at a time: the best so far and its rival. `ms` is undefined when no rival opened. */
async function measureAll(
  best: OpenedEngine,
  rivals: EngineName[],
  model: Model,
  options: OpenOptions,
): Promise<{ best: OpenedEngine; ms?: number }> {
  const { tried } = best;
  const pixels = selfTestPixels(model.manifest, 1);
  const known = new Set<EngineName>([best.engine.name, ...tried.map(({ engine }) => engine)]);
  let bestMs: number | undefined;
  try {
    for (const { name, webnn } of attempts(rivals, options)) {
      throwIfAborted(options.signal);
      if (known.has(name)) continue;
      const asked = webnn?.deviceType && { deviceType: webnn.deviceType };
      let rival: CheckedEngine | undefined;
      try {
        rival = await withinTime(openNamed(name, model, { ...options, webnn }));
        const ms = await measure(rival.engine, pixels);
        bestMs ??= await measure(best.engine, pixels);
        const [slower, slowerMs] = ms < bestMs ? [best.engine, bestMs] : [rival.engine, ms];
        if (ms < bestMs) [best, bestMs] = [{ ...best, ...rival }, ms];
        const { name: engine, deviceType } = slower;
        tried.push({
          engine,
          ...(deviceType && { deviceType }),
          ms: slowerMs,
          reason: `slower: ${slowerMs.toFixed(1)} ms a run`,
        });
        slower.dispose();
      } catch (error) {
        rival?.engine.dispose();
        tried.push({ engine: name, ...asked, reason: messageOf(error) });
      }
    }
    throwIfAborted(options.signal);
  } catch (error) {
    best.engine.dispose();
    throw error;
  }
  return { best, ms: bestMs };
}

/** Devices in the order of their usual speed: NPU, GPU, CPU. Each is measured. */
const WEBNN_DEVICES = ["npu", "gpu", "cpu"] as const;

/** Each rival once. `webnn` comes once for each device, unless the caller names one. */
function attempts(rivals: EngineName[], { webnn }: EngineOptions): { name: EngineName; webnn?: WebnnOptions }[] {
  return rivals.flatMap((name) => {
    if (name !== "webnn" || webnn?.deviceType) return [{ name, webnn }];
    return WEBNN_DEVICES.map((deviceType) => ({ name, webnn: { ...webnn, deviceType } }));
  });
}

/** @throws Error when opening takes too long; an engine that opens later is disposed of */
async function withinTime(opening: Promise<CheckedEngine>): Promise<CheckedEngine> {
  let timer: unknown; // a number in browsers, an object in Node
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, OPEN_MS);
  });
  const opened = await Promise.race([opening, late]).finally(() => clearTimeout(timer as number));
  if (opened) return opened;
  void opening.then(({ engine }) => engine.dispose()).catch(() => {});
  throw new Error(`It was not open after ${OPEN_MS / 1000} s.`);
}

/** Median milliseconds of a run. The self-test has warmed the engine up. */
async function measure(engine: Engine, pixels: Float32Array): Promise<number> {
  const times: number[] = [];
  const start = performance.now();
  while (times.length < RUNS && performance.now() - start < ENOUGH_MS) {
    const runStart = performance.now();
    await engine.run(pixels);
    times.push(performance.now() - runStart);
  }
  return times.sort((a, b) => a - b)[times.length >> 1];
}
