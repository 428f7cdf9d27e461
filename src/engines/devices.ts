/** The devices that engines need beside the CPU: whether there is one, and which, so that a remembered choice is of this one. */
import { adapterName } from "./adapter.ts";
import type { Device } from "./registry.ts";

/** @returns empty when the machine or the browser has none */
export async function deviceName(device: Device): Promise<string> {
  return DEVICES[device]();
}

const DEVICES: Record<Device, () => Promise<string>> = {
  async gpu() {
    const info = (await globalThis.navigator?.gpu?.requestAdapter())?.info;
    return info ? adapterName(info) || "unnamed" : "";
  },
  async npu() {
    return "ml" in (globalThis.navigator ?? {}) ? "WebNN" : "";
  },
};
