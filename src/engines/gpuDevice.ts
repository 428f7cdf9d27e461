/**
 * Shared by the engines on WebGPU: requests a device or fails with a clear error, and reports when the device is lost.
 */
import { messageOf, SlimViTError } from "../errors.ts";
import type { EngineName } from "./engine.ts";

export interface DeviceRequest {
  /** features that are requested where the adapter has them; limits are requested at the adapter's maximum */
  features: readonly string[];
  limits: readonly (keyof GPUSupportedLimits & string)[];
}

/** @throws SlimViTError `unsupported` without WebGPU, an adapter or a device */
export async function requestDevice(engine: EngineName, { features, limits }: DeviceRequest): Promise<GPUDevice> {
  const gpu = globalThis.navigator?.gpu;
  const adapter = await gpu?.requestAdapter({ powerPreference: "high-performance" });
  let fault = gpu ? "found no graphics adapter that it may use" : "has no WebGPU; browsers offer it on https only";
  let cause: unknown;
  if (adapter) {
    try {
      return await adapter.requestDevice({
        requiredFeatures: features.filter((feature) => adapter.features.has(feature)) as GPUFeatureName[],
        requiredLimits: Object.fromEntries(
          limits.flatMap((name) =>
            adapter.limits[name] === undefined ? [] : [[name, adapter.limits[name] as number]],
          ),
        ),
      });
    } catch (error) {
      fault = `was given no graphics device (${messageOf(error)})`;
      cause = error;
    }
  }
  throw new SlimViTError("unsupported", `Engine "${engine}" cannot run: this browser ${fault}.`, { cause });
}

/** What can be lost: a GPUDevice or an MLContext. */
export interface Losable {
  readonly lost: Promise<{ reason?: string; message: string }>;
  destroy(): void;
}

/** Watches a device. When the device ends, so do its runs, even those that the browser would leave pending. */
export class DeviceWatch {
  private fault: SlimViTError | undefined;
  /** rejects a run that has not ended */
  private readonly running = new Set<(error: SlimViTError) => void>();

  constructor(
    private readonly engine: EngineName,
    private readonly device: Losable,
    /** the engine's name in messages */
    what = "its GPU",
  ) {
    void device.lost.then(({ reason, message }) => {
      const why = [reason, message].filter(Boolean).join(", ") || "no reason given";
      this.end("device-lost", `lost ${what} (${why})`);
    });
  }

  /**
   * @throws SlimViTError `device-lost`, also in place of whatever the loss made the work throw or return; `disposed` where
   * `close()` ended the device
   */
  async guard<T>(work: () => Promise<T>): Promise<T> {
    this.check();
    let lose!: (error: SlimViTError) => void;
    // This run needs a promise of its own: one that lives as long as the device would keep every run's result in memory.
    const lost = new Promise<never>((_, reject) => (lose = reject));
    this.running.add(lose);
    const outcome = Promise.race([work(), lost]);
    await outcome.catch(() => new Promise((resolve) => setTimeout(resolve))); // the loss may be reported late
    this.running.delete(lose);
    this.check();
    return outcome;
  }

  /** @throws SlimViTError `device-lost`, or `disposed` after `close()` */
  check(): void {
    if (this.fault) throw this.fault;
  }

  get isLost(): boolean {
    return this.fault !== undefined;
  }

  /** Ends the device, and with it every buffer, texture and shader. Idempotent. */
  close(): void {
    this.end("disposed", "has been disposed of");
    this.device.destroy();
  }

  private end(code: "device-lost" | "disposed", what: string): void {
    this.fault ??= new SlimViTError(code, `Engine "${this.engine}" ${what}.`);
    for (const reject of this.running) reject(this.fault);
  }
}

/** Does one piece of work after the other, in the order of arrival. */
export function queue(): <T>(work: () => Promise<T>) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return (work) => {
    const turn = last.then(work);
    last = turn.catch(() => {});
    return turn;
  };
}
