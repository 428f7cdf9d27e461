/** Classification without a pause, and what page, workers and GPU hold meanwhile. For `npm run soak`. */
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { GPU_URLS, openGpuStage } from "../browser/gpu.ts";
import type { Stage } from "../browser/page.ts";
import { openHeaps, readHeap } from "./heap.ts";

/** Of each round, how many pictures an engine gets: WebGPU runs on SwiftShader, which takes its time. */
const ROUND = { simd: 8, "tfjs-webgpu": 2, "onnx-webgpu": 2 };
type SoakEngine = keyof typeof ROUND;
export const SOAK_ENGINES = Object.keys(ROUND) as SoakEngine[];

export interface Sample {
  seconds: number;
  /** so far, by engine */
  classified: Record<SoakEngine, number>;
  /** answers so far that were not the first answer, bit for bit, to the same picture by the same engine */
  different: number;
  /** alive in the page and its workers after a collection; of what kinds */
  objects: number;
  kinds: Map<string, number>;
  /** JavaScript and WASM memory of the page and its workers, compiled code included, after a collection */
  heldBytes: number;
  /** alive in the two workers that use WebGPU */
  gpu: { buffers: number; bytes: number };
  /** resident memory of Chromium's GPU process, where SwiftShader keeps its buffers and code */
  gpuProcessBytes: number;
}

/** @returns a sample every `sampleMs` for `ms`; the first one when every engine has warmed up */
export async function soak(ms: number, sampleMs: number, onSample = (_: Sample) => {}): Promise<Sample[]> {
  const counted = fileURLToPath(new URL("counted", import.meta.url));
  // The flag makes measureUserAgentSpecificMemory answer at once, after a collection.
  const stage = await openGpuStage({ "/counted": counted }, ["--enable-blink-features=ForceEagerMeasureMemory"]);
  try {
    await stage.page.evaluate(loadAll, { urls: GPU_URLS, round: ROUND });
    const heaps = await openHeaps(stage.page);
    const samples: Sample[] = [];
    const start = Date.now();
    await stage.page.evaluate(classifyFor, sampleMs); // warms up
    do {
      const kinds = new Map<string, number>();
      for (const heap of heaps) {
        for (const [kind, count] of await readHeap(heap)) kinds.set(kind, (kinds.get(kind) ?? 0) + count);
      }
      const sample = {
        ...(await stage.page.evaluate(measure)),
        objects: [...kinds.values()].reduce((a, b) => a + b, 0),
        kinds,
        seconds: (Date.now() - start) / 1000,
        gpuProcessBytes: await gpuProcessBytes(stage),
      };
      samples.push(sample);
      onSample(sample);
      await stage.page.evaluate(classifyFor, sampleMs);
    } while (Date.now() - start < ms);
    return samples;
  } finally {
    await stage.close();
  }
}

declare global {
  var soaked: {
    // biome-ignore lint/suspicious/noExplicitAny: the page's own, built copy of the package
    models: { engine: SoakEngine; vit: any; perRound: number; firstScores: number[] }[];
    classified: Record<SoakEngine, number>;
    different: number;
  };
}

/** In the page: the shipped model on simd, a tiny one on the GPU. */
async function loadAll({ urls, round }: { urls: Record<string, string>; round: typeof ROUND }): Promise<void> {
  const models: typeof soaked.models = [];
  for (const [engine, perRound] of Object.entries(round) as [SoakEngine, number][]) {
    const [source, options] =
      engine === "simd"
        ? ["/shipped/deit-tiny-slim/", { threads: 1 }]
        : ["/models/tiny/", { engineUrls: urls, dtype: "f32", workerUrl: "/counted/worker.js" }];
    models.push({ engine, vit: await load({ engine, ...(options as object) }, source), perRound, firstScores: [] });
  }
  globalThis.soaked = { models, classified: { simd: 0, "tfjs-webgpu": 0, "onnx-webgpu": 0 }, different: 0 };
}

/** In the page. Pictures of four sizes in turn; the same one has to get the same answer for ever. */
async function classifyFor(ms: number): Promise<void> {
  const end = performance.now() + ms;
  do {
    for (const { engine, vit, perRound, firstScores } of soaked.models) {
      for (let k = 0; k < perRound; k++) {
        const size = soaked.classified[engine]++ % 4;
        const { classes } = await vit.classify(picture(50 + 70 * size, 40 + 50 * size));
        firstScores[size] ??= classes[0].score;
        if (classes[0].score !== firstScores[size]) soaked.different++;
      }
    }
  } while (performance.now() < end);
}

/** In the page. */
async function measure(): Promise<Omit<Sample, "seconds" | "objects" | "kinds" | "gpuProcessBytes">> {
  const memory = performance as unknown as { measureUserAgentSpecificMemory(): Promise<{ bytes: number }> };
  const { bytes: heldBytes } = await memory.measureUserAgentSpecificMemory();
  const channel = new BroadcastChannel("gpu-buffers");
  const gpu = { buffers: 0, bytes: 0 };
  let answers = 0;
  await new Promise<void>((resolve) => {
    channel.onmessage = ({ data }) => {
      gpu.buffers += data.buffers;
      gpu.bytes += data.bytes;
      if (++answers === 2) resolve();
    };
    channel.postMessage("ask");
  });
  channel.close();
  return { classified: { ...soaked.classified }, different: soaked.different, heldBytes, gpu };
}

/** Resident memory of Chromium's GPU process. */
export async function gpuProcessBytes(stage: Stage): Promise<number> {
  const session = await stage.browser.newBrowserCDPSession();
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  await session.detach();
  const { id } = processInfo.find(({ type }) => type === "GPU")!;
  return 1024 * Number(execFileSync("ps", ["-o", "rss=", "-p", String(id)], { encoding: "utf8" }));
}

/** Growth from the first value to the last by the least-squares line through all of them. */
export function growthOf(values: number[]): number {
  const middle = (values.length - 1) / 2;
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const spread = values.reduce((sum, _, k) => sum + (k - middle) ** 2, 0);
  const slope = values.reduce((sum, v, k) => sum + (k - middle) * (v - mean), 0) / spread;
  return slope * (values.length - 1);
}
