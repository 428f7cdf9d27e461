/** The choice that "auto" made on an earlier visit. It is read first, so that no other engine has to be loaded. */
import type { Model } from "../format/model.ts";
import { keepChoice, readChoice } from "../loading/cache.ts";
import type { TriedEngine, WebnnOptions } from "../protocol.ts";
import { deviceName } from "./devices.ts";
import type { EngineName, EngineOptions } from "./engine.ts";
import { type OpenedEngine, openNamed } from "./opening.ts";
import type { Device } from "./registry.ts";

export interface Choice {
  engine: EngineName;
  /** of `webnn` */
  deviceType?: WebnnOptions["deviceType"];
  tried: TriedEngine[];
  reason: string;
  /** Names of the devices that were present; empty for a device that was not. */
  devices: Record<string, string>;
}

/** Browsers, drivers and machines change, so a choice is good for 30 days. */
const KEPT_MS = 30 * 24 * 3600 * 1000;

/** @returns undefined where no choice is kept, or where the kept choice is no longer valid */
export async function openChosenBefore(model: Model, options: EngineOptions): Promise<OpenedEngine | undefined> {
  try {
    const kept = await readChoice(keyOf(model, options));
    if (!kept) return undefined;
    const { at, engine, deviceType, tried, reason, devices }: Choice & { at: number } = JSON.parse(kept);
    if (!(Date.now() - at < KEPT_MS)) return undefined;
    for (const [device, name] of Object.entries(devices))
      if (name !== (await deviceName(device as Device))) return undefined;
    const withDevice = deviceType ? { ...options, webnn: { ...options.webnn, deviceType } } : options;
    return { ...(await openNamed(engine, model, withDevice)), tried, reason: `${reason} on an earlier visit` };
  } catch {
    return undefined; // all engines are measured again, and their faults reported
  }
}

/** Keeps a choice. Where the browser keeps nothing, the engines are measured again on the next visit. */
export async function keepChosen(model: Model, options: EngineOptions, choice: Choice): Promise<void> {
  try {
    await keepChoice(keyOf(model, options), JSON.stringify({ at: Date.now(), ...choice }));
  } catch {} // Nothing can be kept here.
}

/**
 * Identifies the browser, the model and what else the times depend on. The worker's address tells an app's builds apart,
 * because bundlers name files by their content, installed packages included.
 *
 * @throws outside of browsers, where nothing is kept
 */
function keyOf({ manifest, dtype }: Model, { threads, engineUrls, packages, webnn }: EngineOptions): string {
  const { userAgent, hardwareConcurrency } = navigator;
  const weights = manifest.weights.find((entry) => entry.dtype === dtype)?.sha256;
  const build = location.href.replace(/^blob:.*/, "");
  const variant = manifest.variants.length > 1 ? manifest.variant : undefined; // each has its fastest engine
  return JSON.stringify([
    weights,
    variant,
    threads,
    engineUrls,
    packages,
    webnn,
    userAgent,
    hardwareConcurrency,
    build,
  ]);
}
