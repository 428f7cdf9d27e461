/** Vulkan on the CPU, for WebGPU in Node: SwiftShader, as Chromium brings it. */
import { existsSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { findChromium } from "../../scripts/setup-chromium.mjs";

/** @returns the environment in which Dawn finds the driver; it is read when a process starts */
export function swiftShader(): Record<string, string> {
  const chromium = findChromium();
  const folders = [...(chromium ? [dirname(realpathSync(chromium))] : []), "/usr/lib/chromium"];
  const folder = folders.find((dir) => existsSync(join(dir, "vk_swiftshader_icd.json")));
  if (!folder) throw new Error(`no SwiftShader beside Chromium (looked in ${folders.join(", ")})`);
  return { VK_ICD_FILENAMES: join(folder, "vk_swiftshader_icd.json"), LD_LIBRARY_PATH: folder };
}
