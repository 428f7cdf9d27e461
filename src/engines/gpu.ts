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
  private readonly lost: Promise<never>;

  constructor(
    private readonly engine: EngineName,
    device: GPUDevice,
  ) {
    this.lost = device.lost.then(({ reason, message }) => {
      this.reason = `${reason}${message && `, ${message}`}`;
      throw this.error();
    });
    this.lost.catch(() => {}); // heard in `guard`, or by no one
  }

  /** @throws SlimViTError `device-lost`, also in place of whatever the loss made the work throw or return */
  async guard<T>(work: Promise<T>): Promise<T> {
    const outcome = Promise.race([work, this.lost]);
    await outcome.catch(() => new Promise((resolve) => setTimeout(resolve))); // the loss may be told after its first victim
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
