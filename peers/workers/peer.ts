/** What every peer's worker offers to the page. */
import { expose } from "comlink";
import type { Accelerator } from "../cases.ts";

export interface Spec {
  /** where this case's files are served, with a slash at the end */
  base: string;
  /** file or folder below it */
  model: string;
  threads: number;
  accelerator?: Accelerator;
}

export interface Peer {
  /** Opens the model; resolves when the first run can start. */
  open(spec: Spec): Promise<void>;
  /** @param pixels [3, height, width]; @returns ms of inference alone */
  run(pixels: Float32Array): Promise<{ logits: Float32Array; ms: number }>;
  /** The peak size of its WASM memories, which never shrink. */
  memoryBytes(): Promise<number>;
  /** From a picture file to the best label, where the peer has such a function. */
  classify?(picture: Blob): Promise<{ label: string; ms: number }>;
}

export function servePeer(peer: Omit<Peer, "memoryBytes">): void {
  const memories = watchMemories();
  expose({
    ...peer,
    memoryBytes: async () => [...memories].reduce((sum, { buffer }) => sum + buffer.byteLength, 0),
  } satisfies Peer);
}

/** @returns the memories that WebAssembly makes from now on */
function watchMemories(): Set<WebAssembly.Memory> {
  const { Memory, instantiate, instantiateStreaming } = WebAssembly;
  const memories = new Set<WebAssembly.Memory>();
  const keep = <T>(result: T): T => {
    const { exports } = ((result as { instance?: WebAssembly.Instance }).instance ?? result) as WebAssembly.Instance;
    for (const value of Object.values(exports)) if (value instanceof Memory) memories.add(value);
    return result;
  };
  const watched = {
    Memory: new Proxy(Memory, {
      construct(target, [descriptor]) {
        const memory = new target(descriptor);
        memories.add(memory);
        return memory;
      },
    }),
    instantiate: async (source: BufferSource, imports?: WebAssembly.Imports) =>
      keep(await instantiate(source, imports)),
    instantiateStreaming: async (source: Response | PromiseLike<Response>, imports?: WebAssembly.Imports) =>
      keep(await instantiateStreaming(source, imports)),
  };
  Object.assign(WebAssembly, watched);
  return memories;
}

export async function download(url: string): Promise<Uint8Array> {
  return new Uint8Array(await (await fetch(url)).arrayBuffer());
}
