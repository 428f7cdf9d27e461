/** What kind of adapter WebGPU has here. */

/** A CPU that plays the GPU: SwiftShader, Mesa's llvmpipe, Windows' basic render driver. */
export function isSoftwareAdapter(info: Partial<GPUAdapterInfo>): boolean {
  const { vendor, architecture, device, description, isFallbackAdapter } = info;
  const words = [vendor, architecture, device, description].join(" ");
  return isFallbackAdapter === true || /swiftshader|llvmpipe|lavapipe|software|basic render/i.test(words);
}
