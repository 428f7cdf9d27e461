/** The kind of WebGPU adapter of this device. */

/** For people, and to tell one machine's adapters from another's. Empty when there is no information. */
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

/** A CPU that plays the GPU: SwiftShader, Mesa's llvmpipe, Windows' basic render driver. */
export function isSoftwareAdapter(name: string): boolean {
  return /swiftshader|llvmpipe|lavapipe|software|basic render|fallback adapter/i.test(name);
}
