/** Deflated bytes → what is in them, in pieces. */
export function inflating(deflated: Uint8Array, format: CompressionFormat): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new Response(deflated as Uint8Array<ArrayBuffer>).body!.pipeThrough(new DecompressionStream(format));
}

/** A binary as generate.mjs writes it. */
export async function inflate(binary: string): Promise<Uint8Array<ArrayBuffer>> {
  const deflated = Uint8Array.from(atob(binary), (letter) => letter.charCodeAt(0));
  return new Uint8Array(await new Response(inflating(deflated, "deflate-raw")).arrayBuffer());
}
