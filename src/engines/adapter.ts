/** What kind of adapter WebGPU has here. */

/** A CPU that plays the GPU: SwiftShader, Mesa's llvmpipe, Windows' basic render driver. */
export function isSoftwareAdapter(info: Partial<GPUAdapterInfo>): boolean {
  const { vendor, architecture, device, description, isFallbackAdapter } = info;
  const words = [vendor, architecture, device, description].join(" ");
  return isFallbackAdapter === true || /swiftshader|llvmpipe|lavapipe|software|basic render/i.test(words);
}

/** Whether there is an adapter, and it is a GPU. */
export async function hasGpu(): Promise<boolean> {
  try {
    const adapter = await globalThis.navigator?.gpu?.requestAdapter();
    return !!adapter && !isSoftwareAdapter(adapter.info ?? {});
  } catch {
    return false;
  }
}
