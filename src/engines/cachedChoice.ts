/** The choice that "auto" made on an earlier visit. Asked first: no other engine, nor what measures them, is then loaded. */

import type { Model } from "../format/model.ts";
import { readChoice } from "../loading/cache.ts";
import type { EngineName, EngineOptions } from "./engine.ts";
import { type OpenedEngine, openNamed, type TriedEngine } from "./registry.ts";

export interface Choice {
  at: number;
  engine: EngineName;
  tried: TriedEngine[];
  reason: string;
  /** the GPU that was there when engines that need one were tried */
  gpu?: string;
}

/** Browsers, drivers and machines change. */
const KEPT_MS = 30 * 24 * 3600 * 1000;

/** @returns undefined where nothing is kept, or what is does not hold any more */
export async function openKept(model: Model, options: EngineOptions): Promise<OpenedEngine | undefined> {
  try {
    const { at, engine, tried, reason, gpu }: Choice = JSON.parse((await readChoice(keyOf(model, options)))!);
    const holds = Date.now() - at < KEPT_MS && (gpu === undefined || gpu === (await gpuName()));
    if (holds) return { ...(await openNamed(engine, model, options)), tried, reason: `${reason} on an earlier visit` };
  } catch {} // all are measured again, and their faults told
}

/**
 * Of a browser, a model and what else the times depend on. The worker's address tells an app's builds apart, as bundlers
 * name files by what is in them, installed packages too.
 *
 * @throws elsewhere, where nothing is kept
 */
export function keyOf({ manifest, dtype }: Model, { threads, engineUrls }: EngineOptions): string {
  const { userAgent, hardwareConcurrency } = navigator;
  const weights = manifest.weights.find((entry) => entry.dtype === dtype)?.sha256;
  const build = location.href.replace(/^blob:.*/, "");
  return JSON.stringify([weights, threads, engineUrls, userAgent, hardwareConcurrency, build]);
}

/** Empty where there is no adapter. */
export async function gpuName(): Promise<string> {
  const info = (await globalThis.navigator?.gpu?.requestAdapter())?.info;
  return info ? [info.vendor, info.architecture, info.device, info.description].join() : "";
}
