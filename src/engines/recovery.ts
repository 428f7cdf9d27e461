/**
 * Replaces an engine whose GPU is lost: the driver crashed or was updated, the card was unplugged, or the machine slept.
 * The new engine also answers the call that was in flight.
 */
import { messageOf, SlimViTError, throwIfAborted } from "../errors.ts";
import type { Model } from "../format/model.ts";
import { type OpenOptions, openEngine } from "./auto.ts";
import type { Engine, EngineName, EngineOptions, RunOptions, RunOutput } from "./engine.ts";
import { type OpenedEngine, openNamed, openWithoutDevice } from "./opening.ts";
import { deviceOf } from "./registry.ts";

/** What an engine is opened from. */
interface Source {
  model: Model;
  options: EngineOptions;
}

interface ReopenedEngine extends OpenedEngine {
  /** what happened, for people */
  note: string;
}

export class RecoveringEngine {
  private constructor(
    /** The engine that runs now, and why. Another object after each loss. */
    public opened: OpenedEngine,
    /** What has been lost so far, for people. */
    public notes: readonly string[],
    /**
     * Kept only while the engine can be lost, because it holds the weights. An engine on the CPU has packed them for
     * itself.
     */
    private source: Source | undefined,
  ) {}

  /** @throws SlimViTError as `openEngine`, but for `device-lost` */
  static async open(name: EngineName | "auto", model: Model, options: OpenOptions): Promise<RecoveringEngine> {
    const { signal: _, keeps: __, mayUseOthers: ___, ...lasting } = options;
    const source = { model, options: lasting as EngineOptions };
    const opened = await openEngine(name, model, options).catch((error) => {
      if (name === "auto") throw error;
      return reopen(name, source, error, false);
    });
    const { deviceType } = opened.engine;
    if (deviceType) source.options.webnn = { ...options.webnn, deviceType }; // a fresh device of the chosen type
    return new RecoveringEngine(opened, "note" in opened ? [opened.note as string] : [], keptFor(opened, source));
  }

  get engine(): Engine {
    return this.opened.engine;
  }

  run(pixels: Float32Array, options: RunOptions): Promise<RunOutput> {
    return this.retrying((engine) => engine.run(pixels, options), options.signal);
  }

  /** One output for each picture; an engine without batches runs them in turn. */
  runBatch(pictures: readonly Float32Array[], options: RunOptions = {}): Promise<RunOutput[]> {
    return this.retrying(async (engine) => {
      const size = engine.runBatch ? (engine.batchSize ?? 1) : 1;
      const outputs: RunOutput[] = [];
      for (let from = 0; from < pictures.length; from += size) {
        const part = pictures.slice(from, from + size);
        if (engine.runBatch) outputs.push(...(await engine.runBatch(part, options)));
        else outputs.push(await engine.run(part[0], options));
      }
      return outputs;
    }, options.signal);
  }

  dispose(): void {
    this.engine.dispose();
    this.source = undefined;
  }

  private async retrying<T>(work: (engine: Engine) => Promise<T>, signal?: AbortSignal): Promise<T> {
    for (let losses = 0; ; losses++) {
      try {
        return await work(this.engine);
      } catch (error) {
        if (!this.source) throw error;
        const lost = this.engine;
        const reopened = await reopen(lost.name, this.source, error, losses > 0);
        lost.dispose();
        this.source = keptFor(reopened, this.source);
        this.notes = [...new Set([...this.notes, reopened.note])];
        this.opened = reopened;
        throwIfAborted(signal);
      }
    }
  }
}

function keptFor({ engine }: OpenedEngine, source: Source): Source | undefined {
  return deviceOf(engine.name) ? source : undefined;
}

/**
 * Opens the same engine on a fresh device. Where there is none, opens an engine that needs no device.
 *
 * @param isSecondLoss the same call has lost a device before, so a third one is not tried
 * @throws SlimViTError `error` itself unless it is `device-lost`; as `openWithoutDevice`
 */
async function reopen(
  name: EngineName,
  { model, options }: Source,
  error: unknown,
  isSecondLoss: boolean,
): Promise<ReopenedEngine> {
  if (!(error instanceof SlimViTError) || error.code !== "device-lost") throw error;
  const lost = error.message;
  let fault = "The next one was lost, too.";
  if (!isSecondLoss) {
    try {
      const opened = await openNamed(name, model, options);
      return { ...opened, tried: [], reason: "its first device was lost", note: `${lost} A fresh device took over.` };
    } catch (again) {
      fault = messageOf(again);
    }
  }
  const opened = await openWithoutDevice(model, options);
  return {
    ...opened,
    tried: [...opened.tried, { engine: name, reason: `${lost} ${fault}` }],
    reason: "the GPU was lost",
    note: `${lost} ${fault} Engine "${opened.engine.name}" took over.`,
  };
}
