/** Devices other than the CPU: whether there is one, and which. A remembered choice holds for the same device only. */
import { adapterName, isSoftwareAdapter } from "./adapter.ts";
import type { Device } from "./registry.ts";

/** @returns empty when the machine or the browser has none */
export async function deviceName(device: Device): Promise<string> {
  return DEVICES[device]();
}

const DEVICES: Record<Device, () => Promise<string>> = {
  async gpu() {
    const info = await adapterInfo();
    return info ? [info.vendor, info.architecture, info.device, info.description].join() : "";
  },
  /** A GPU that is emulated by the CPU does not count: `simd` is faster there. */
  async "hardware-gpu"() {
    const info = await adapterInfo();
    return info && !isSoftwareAdapter(adapterName(info)) ? adapterName(info) : "";
  },
  async npu() {
    return "ml" in (globalThis.navigator ?? {}) ? "WebNN" : "";
  },
};

async function adapterInfo(): Promise<GPUAdapterInfo | undefined> {
  return (await globalThis.navigator?.gpu?.requestAdapter())?.info;
}
