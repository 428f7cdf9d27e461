/** Opens engines and checks each by the model's self-test before it is used. */
import { messageOf, SlimViTError } from "../errors.ts";
import type { Model } from "../format/model.ts";
import type { TriedEngine } from "../protocol.ts";
import type { Engine, EngineName, EngineOptions } from "./engine.ts";
import { inNode } from "./installedPackages.ts";
import { EVERYWHERE, hasPackages, loadEngine } from "./registry.ts";
import { isWrongResults, selfTest } from "./selfTest.ts";

export interface CheckedEngine {
  engine: Engine;
  /** Milliseconds of the first run, which warms the engine up and checks it. */
  firstRunMs: number;
}

export interface OpenedEngine extends CheckedEngine {
  tried: TriedEngine[];
  /** why this engine was chosen */
  reason: string;
}

/** @throws SlimViTError `unsupported` for an engine that cannot run here or computes wrong results; what the engine throws */
export async function openNamed(name: EngineName, model: Model, options: EngineOptions): Promise<CheckedEngine> {
  const open = await loadEngine(name, options);
  const engine = await open(model, options);
  const start = performance.now();
  try {
    await selfTest(engine, model);
  } catch (error) {
    engine.dispose();
    throw error;
  }
  return { engine, firstRunMs: performance.now() - start };
}

/**
 * Opens the first engine that opens, of those that run on any machine.
 *
 * @param mayUseOthers when false, wrong results of the first engine are reported to the caller, who may have other
 * weights to try
 * @throws SlimViTError `unsupported` when none opens
 */
export async function openWithoutDevice(
  model: Model,
  options: EngineOptions,
  mayUseOthers = true,
): Promise<OpenedEngine> {
  const tried: TriedEngine[] = [];
  for (const candidate of EVERYWHERE.filter((name) => inNode || hasPackages(name, options))) {
    try {
      const opened = await openNamed(candidate, model, options);
      return { ...opened, tried, reason: tried.length ? "the first that opened" : "the app brings no other" };
    } catch (error) {
      if (isCallersFault(error) || (!mayUseOthers && isWrongResults(error))) throw error;
      tried.push({ engine: candidate, reason: messageOf(error) });
    }
  }
  throw new SlimViTError("unsupported", `No engine opens here. ${tried.map(({ reason }) => reason).join(" ")}`);
}

/** Whether the next engine would find the same fault again. */
function isCallersFault(error: unknown): boolean {
  return error instanceof SlimViTError && ["bad-model", "bad-option", "aborted"].includes(error.code);
}
