/**
 * What becomes of an engine whose GPU is lost: a driver that crashed or was updated, a card that was unplugged or slept. In
 * webgpu.js, which is there already where a GPU can be lost.
 */
import { messageOf, type SlimViTError } from "../errors.ts";
import type { Model } from "../format/model.ts";
import type { EngineName, EngineOptions } from "./engine.ts";
import type { Openers } from "./measure.ts";
import type { OpenedEngine } from "./registry.ts";

/** What an engine is opened from. */
export interface Spare {
  model: Model;
  options: EngineOptions;
}

export interface ReopenedEngine extends OpenedEngine {
  /** what happened, in people's words */
  note: string;
}

/**
 * The same engine on a fresh device, or where none is to be had one that needs no GPU.
 *
 * @param lost what the engine threw, `device-lost`
 * @param again the same call has lost a device before: a third one is not tried
 * @throws SlimViTError as `openWithoutGpu`
 */
export async function reopen(
  name: EngineName,
  { model, options }: Spare,
  lost: SlimViTError,
  again: boolean,
  { openNamed, openWithoutGpu }: Openers,
): Promise<ReopenedEngine> {
  let fault = "The next one was lost, too.";
  if (!again) {
    try {
      const reason = "its first device was lost";
      return {
        ...(await openNamed(name, model, options)),
        tried: [],
        reason,
        note: `${lost.message} A fresh device took over.`,
      };
    } catch (error) {
      fault = messageOf(error);
    }
  }
  const opened = await openWithoutGpu(model, options);
  const { engine, tried } = opened;
  const note = `${lost.message} ${fault} Engine "${engine.name}" took over.`;
  return {
    ...opened,
    tried: [...tried, { engine: name, reason: `${lost.message} ${fault}` }],
    reason: "the GPU was lost",
    note,
  };
}
