/** The kind of WebGPU adapter of this device. */

/** A name of the adapter, for people and for comparing machines. Empty when the browser gives no information. */
export function adapterName({
  vendor,
  architecture,
  device,
  description,
  isFallbackAdapter,
}: Partial<GPUAdapterInfo>): string {
  return [vendor, architecture, device, description, isFallbackAdapter && "fallback adapter"]
    .filter(Boolean)
    .join(", ");
}

/** Whether a CPU emulates the GPU: SwiftShader, Mesa's llvmpipe, Windows' basic render driver. */
export function isSoftwareAdapter(name: string): boolean {
  return /swiftshader|llvmpipe|lavapipe|software|basic render|fallback adapter/i.test(name);
}
