/** The metadata of a safetensors file. Names and values are not trusted. */

/** @param file that `readSafetensors` has read, so that its header is sound */
export function safetensorsMetadata(file: Uint8Array): Record<string, string> {
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const { __metadata__: metadata } = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + length)));
  const entries = Object.entries(metadata ?? {});
  return Object.fromEntries(entries.filter((entry): entry is [string, string] => typeof entry[1] === "string"));
}
