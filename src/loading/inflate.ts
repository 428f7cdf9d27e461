/** Deflated bytes → their contents, in pieces. */
export function inflating(deflated: Uint8Array, format: CompressionFormat): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new Response(deflated as Uint8Array<ArrayBuffer>).body!.pipeThrough(new DecompressionStream(format));
}

/** Unpacks a binary that generate.mjs has written. */
export async function inflate(binary: string): Promise<Uint8Array<ArrayBuffer>> {
  const letters = atob(binary);
  const deflated = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) deflated[i] = letters.charCodeAt(i); // `from` takes ten times as long
  return new Uint8Array(await new Response(inflating(deflated, "deflate-raw")).arrayBuffer());
}
