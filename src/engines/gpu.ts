/** What the engines on WebGPU share: an adapter or a clear no, and the notice that a device is gone. */
import { SlimViTError } from "../errors.ts";
import type { EngineName } from "./engine.ts";

/** @throws SlimViTError `unsupported` without WebGPU or an adapter */
export async function requestAdapter(engine: EngineName): Promise<GPUAdapter> {
  const gpu = globalThis.navigator?.gpu;
  const adapter = await gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (adapter) return adapter;
  const fault = gpu ? "found no graphics adapter that it may use" : "has no WebGPU; browsers offer it on https only";
  throw new SlimViTError("unsupported", `Engine "${engine}" cannot run: this browser ${fault}.`);
}

/** Ends a device's runs when the device ends, even those that the browser would leave waiting. */
export class DeviceWatch {
  private reason: string | undefined;
  /** rejects a run that has not ended */
  private readonly running = new Set<(error: SlimViTError) => void>();

  constructor(
    private readonly engine: EngineName,
    device: GPUDevice,
  ) {
    void device.lost.then(({ reason, message }) => {
      this.reason = `${reason}${message && `, ${message}`}`;
      for (const reject of this.running) reject(this.error());
    });
  }

  /** @throws SlimViTError `device-lost`, also in place of whatever the loss made the work throw or return */
  async guard<T>(work: Promise<T>): Promise<T> {
    if (this.isLost) throw this.error();
    let lose!: (error: SlimViTError) => void;
    // A promise of this run's own: one that lives as long as the device would keep every run's outcome.
    const lost = new Promise<never>((_, reject) => (lose = reject));
    this.running.add(lose);
    const outcome = Promise.race([work, lost]);
    await outcome.catch(() => new Promise((resolve) => setTimeout(resolve))); // the loss may be told after its first victim
    this.running.delete(lose);
    if (this.isLost) throw this.error();
    return outcome;
  }

  get isLost(): boolean {
    return this.reason !== undefined;
  }

  private error(): SlimViTError {
    return new SlimViTError("device-lost", `Engine "${this.engine}" lost its GPU (${this.reason}).`);
  }
}
