/** A binary as generate.mjs writes it. */
export async function inflate(binary: string): Promise<Uint8Array<ArrayBuffer>> {
  const deflated = Uint8Array.from(atob(binary), (letter) => letter.charCodeAt(0));
  const inflating = new Response(deflated).body!.pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(inflating).arrayBuffer());
}
