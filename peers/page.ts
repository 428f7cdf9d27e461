/** Runs in the page: opens every case, ours and the peers', and times them in turn. */
import { type Remote, wrap } from "comlink";
import type { RawImage } from "../src/image/resample.ts";
import type { SlimViT } from "../src/page/slimvit.ts";
import type { Case, Network } from "./cases.ts";
import type { Peer } from "./workers/peer.ts";

interface Opened {
  run(): Promise<{ logProbabilities: number[]; ms: number }>;
  classify?: (picture: Blob) => Promise<{ label: string; ms: number }>;
  memoryBytes(): Promise<number | undefined>;
  close(): void;
}

const opened: (Opened | undefined)[] = [];
let input: { picture: RawImage; pixels: Record<Network, Float32Array>; jpeg: Blob };

/** @param pixels of the picture, as each network's manifest says */
export function prepare(
  picture: { data: number[]; width: number; height: number },
  pixels: Record<Network, number[]>,
  jpeg: number[],
) {
  const entries = Object.entries(pixels).map(([network, values]) => [network, Float32Array.from(values)]);
  input = {
    picture: { ...picture, data: new Uint8ClampedArray(picture.data) },
    pixels: Object.fromEntries(entries),
    jpeg: new Blob([Uint8Array.from(jpeg)], { type: "image/jpeg" }),
  };
}

/** Opens twice: the second time code and weights come from the browser's caches. */
export async function open(c: Case, k: number, threads: number) {
  const base = `${location.origin}/c${k}/`;
  await caches.delete("slimvit");
  const first = await (c.peer === "slimvit" ? openOurs : openPeer)(c, base, threads);
  const { logProbabilities } = await first.run();
  first.close();
  const start = performance.now();
  const again = await (c.peer === "slimvit" ? openOurs : openPeer)(c, base, threads);
  opened[k] = again;
  return { coldMs: performance.now() - start - (again.firstRunMs ?? 0), threads: again.threads, logProbabilities };
}

/** Each of these cases once, in this order. */
export async function round(order: number[]): Promise<number[]> {
  const times: number[] = [];
  for (const k of order) {
    times.push((await opened[k]!.run()).ms);
    await new Promise((resolve) => setTimeout(resolve, 30)); // until its threads have stopped spinning
  }
  return times;
}

/** Milliseconds from picture file to label; null for a case without this function, a message for one that fails. */
export async function endToEnd(order: number[]): Promise<(number | string | null)[]> {
  const times: (number | string | null)[] = [];
  for (const k of order) {
    try {
      times.push((await opened[k]!.classify?.(input.jpeg))?.ms ?? null);
    } catch (error) {
      times.push(String((error as Error).message));
    }
  }
  return times;
}

interface Opening extends Opened {
  threads: number;
  /** of the time to open, what was a first run already */
  firstRunMs?: number;
}

async function openOurs({ engine, model, dtype }: Case, base: string, threads: number): Promise<Opening> {
  const { SlimViT: Api } = (await import(/* @vite-ignore */ `${base}dist/index.js`)) as { SlimViT: typeof SlimViT };
  const vit = await Api.load(base + model, {
    engine,
    dtype,
    threads,
    engineUrls: {
      "onnxruntime-web": `${base}ort/ort.wasm.bundle.min.mjs`,
      "onnxruntime-web/webgpu": `${base}ort/ort.webgpu.bundle.min.mjs`,
      "@tensorflow/tfjs-core": `${base}tfjs-core/tf-core.min.js`,
      "@tensorflow/tfjs-backend-webgpu": `${base}tfjs-webgpu/tf-backend-webgpu.min.js`,
    },
  });
  return {
    threads: vit.info.threads,
    firstRunMs: vit.info.loadMs.firstRun,
    async run() {
      const { classes, latencyMs } = await vit.classify(input.picture, { topK: vit.info.labels.length });
      const logProbabilities: number[] = [];
      for (const { index, score } of classes) logProbabilities[index] = Math.log(Math.max(score, 1e-30));
      return { logProbabilities, ms: latencyMs.inference };
    },
    async classify(picture) {
      const start = performance.now();
      const { classes } = await vit.classify(picture, { topK: 1 });
      return { label: classes[0].label, ms: performance.now() - start };
    },
    memoryBytes: async () => vit.info.memoryBytes,
    close: () => vit.dispose(),
  };
}

async function openPeer(
  { peer, network, model, pipeline, accelerator }: Case,
  base: string,
  threads: number,
): Promise<Opening> {
  const worker = new Worker(`${base}workers/${peer}.js`, { type: peer === "litert" ? "classic" : "module" });
  const failed = new Promise<never>((_, reject) => {
    worker.onerror = (event) => reject(new Error(`${peer}: ${event.message}`));
  });
  const remote: Remote<Peer> = wrap<Peer>(worker);
  await Promise.race([remote.open({ base, model, threads, accelerator }), failed]);
  return {
    threads,
    async run() {
      const { logits, ms } = await remote.run(input.pixels[network]);
      const max = logits.reduce((a, b) => Math.max(a, b), -Infinity);
      const total = logits.reduce((sum, v) => sum + Math.exp(v - max), 0);
      return { logProbabilities: Array.from(logits, (v) => v - max - Math.log(total)), ms };
    },
    classify: pipeline ? (picture) => (remote as Remote<Required<Peer>>).classify(picture) : undefined,
    memoryBytes: () => remote.memoryBytes(),
    close: () => worker.terminate(),
  };
}

/** Undefined where it cannot be known. */
export function memory(order: number[]): Promise<(number | undefined)[]> {
  return Promise.all(order.map((k) => opened[k]!.memoryBytes()));
}

Object.assign(globalThis, { peers: { prepare, open, round, endToEnd, memory } });
