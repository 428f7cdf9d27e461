/**
 * slimvit bench MODEL... --engine webgpu,tfjs-webgpu,onnx-webgpu: milliseconds an image on this machine's GPU, without a
 * browser. The engines run as they ship, in Node on Dawn (npm's `webgpu`), which uses Vulkan, Metal or Direct3D. Outputs
 * are checked against the reference engine first, then all models are timed in interleaved rounds. A software adapter is
 * reported as one: it shows that the outputs are right, and nothing about speed.
 */
import { setFlagsFromString } from "node:v8";
import { adapterName, isSoftwareAdapter } from "../../src/engines/adapter.ts";
import type { Engine } from "../../src/engines/engine.ts";
import { openOnnxWebgpu } from "../../src/engines/onnx/webgpu.ts";
import { openTfjs } from "../../src/engines/tfjs-webgpu/engine.ts";
import { openWebgpu, type WebgpuEngine } from "../../src/engines/webgpu/engine.ts";
import { SlimViTError } from "../../src/errors.ts";
import { countMacs, type Model, type WeightsDtype } from "../../src/format/model.ts";
import { preprocess } from "../../src/image/resample.ts";
import { forward } from "../../src/reference/forward.ts";
import { readManifestFile, readModelFolder } from "../models/folders.ts";
import { random, shuffled } from "../shared/random.ts";
import { say } from "../shared/terminal.ts";
import { provideWebGpu } from "../training/backend.ts";
import { logProbabilities, quantile, WARM_UP } from "./bench.ts";
import { testImage, timedDtypes, withFolders } from "./benchModels.ts";

type GpuEngine = "webgpu" | "tfjs-webgpu" | "onnx-webgpu";

const OPENERS: Record<GpuEngine, (model: Model) => Promise<Engine>> = {
  webgpu: (model) => openWebgpu(model),
  "tfjs-webgpu": (model) => openTfjs(model, {}),
  "onnx-webgpu": (model) => {
    // Optimizing onnxruntime-web's largest functions keeps V8 busy for minutes, and the process from ending.
    setFlagsFromString("--liftoff-only");
    return openOnnxWebgpu(model, {});
  },
};

/**
 * Largest difference of a log-probability that rounding explains. On f16 weights onnx-webgpu computes in f16 where the
 * adapter can: models/deit-tiny is then 0.034 off on Mesa's llvmpipe.
 */
const TOLERANCE: Record<WeightsDtype, number> = { f32: 1e-3, f16: 0.1, int8: 1e-3 };

export interface GpuBenchRow {
  model: string;
  engine: GpuEngine;
  dtype: WeightsDtype;
  threads: 1;
  /** pixels on the CPU to logits on the CPU */
  msMedian: number;
  msP10: number;
  msP90: number;
  /** weights on the GPU, shaders compiled */
  loadMs: number;
  /** against the reference engine on the same weights: largest difference of a log-probability */
  maxAbsDiff: number;
  gmacs: number;
  /** of `webgpu`: GPU programs that a call launches */
  dispatches?: number;
  /** of `webgpu`: median milliseconds that a call holds the thread, without the driver's work at submission */
  encodeMs?: number;
  /** the adapter's description of itself */
  device: string;
  /** computed by the CPU: milliseconds mean nothing */
  isSoftware: boolean;
}

export interface GpuBenchOptions {
  engine: GpuEngine[];
  /** default all that a model has */
  dtype?: WeightsDtype[];
  rounds: number;
}

/**
 * @throws SlimViTError `unsupported` without Dawn or an adapter, or past `TOLERANCE`; `bad-option` for a model without
 * such weights
 */
export async function benchGpu(names: string[], options: GpuBenchOptions): Promise<GpuBenchRow[]> {
  await provideWebGpu();
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) {
    throw new SlimViTError(
      "unsupported",
      "Dawn finds no GPU: it needs Vulkan (libvulkan.so.1 and the card's driver), Metal or Direct3D 12.",
    );
  }
  return withFolders(names, options.dtype, false, (sources) => benchFolders(sources, options, deviceOf(adapter.info)));
}

type Device = Pick<GpuBenchRow, "device" | "isSoftware">;

/** @param info WebGPU's, or that of an older Dawn without `isFallbackAdapter` */
export function deviceOf(info: Partial<GPUAdapterInfo>): Device {
  const device = adapterName(info);
  return { device: device || "unnamed", isSoftware: isSoftwareAdapter(device) };
}

async function benchFolders(
  sources: string[],
  { engine: engines, dtype, rounds }: GpuBenchOptions,
  device: Device,
): Promise<GpuBenchRow[]> {
  const cases = sources.flatMap((source) => {
    const dtypes = timedDtypes(source, readManifestFile(source), dtype);
    return engines.flatMap((name) => dtypes.map((one) => ({ source, name, dtype: one })));
  });
  const image = testImage();
  const opened = [];
  for (const { source, name, dtype } of cases) {
    const model = readModelFolder(source, dtype);
    const start = performance.now();
    const engine = await OPENERS[name](model);
    const loadMs = performance.now() - start;
    const pixels = preprocess(image, model.manifest.preprocess);
    const actual = logProbabilities((await engine.run(pixels)).logits);
    const expected = logProbabilities(forward(model, pixels).logits);
    const maxAbsDiff = actual.reduce((worst, v, i) => Math.max(worst, Math.abs(v - expected[i])), 0);
    checkOutputs(maxAbsDiff, dtype, `${source}: ${name} on ${dtype} weights, ${device.device}`);
    opened.push({ model, name, engine, loadMs, pixels, maxAbsDiff, times: [] as number[], encodes: [] as number[] });
  }
  for (let round = 0; round < WARM_UP + rounds; round++) {
    for (const { engine, pixels, times, encodes } of shuffled(opened, random(1, round))) {
      const start = performance.now();
      await engine.run(pixels);
      if (round < WARM_UP) continue;
      times.push(performance.now() - start);
      if (engine.name === "webgpu") encodes.push((engine as WebgpuEngine).encodeMs);
    }
  }
  return opened.map(({ model, name, engine, loadMs, maxAbsDiff, times, encodes }) => {
    engine.dispose();
    return {
      model: model.manifest.name,
      engine: name,
      dtype: model.dtype,
      threads: 1,
      msMedian: quantile(times, 0.5),
      msP10: quantile(times, 0.1),
      msP90: quantile(times, 0.9),
      loadMs,
      maxAbsDiff,
      gmacs: countMacs(model.manifest, model.manifest.labels.length) / 1e9,
      ...(engine.dispatches && { dispatches: engine.dispatches, encodeMs: quantile(encodes, 0.5) }),
      ...device,
    };
  });
}

/** @throws SlimViTError `unsupported` past `TOLERANCE`, and for no number at all */
export function checkOutputs(maxAbsDiff: number, dtype: WeightsDtype, what: string): void {
  if (maxAbsDiff <= TOLERANCE[dtype]) return;
  throw new SlimViTError("unsupported", `${what}: log-probabilities are ${maxAbsDiff} off the reference engine's.`);
}

export function gpuBenchTable(rows: GpuBenchRow[]): string {
  const [{ device, isSoftware, msMedian: dense, gmacs: denseGmacs }] = rows;
  say(
    "medians of interleaved rounds; outputs checked against the reference engine first; pixels to logits, both on the CPU",
  );
  const lines = rows.map((r) =>
    [
      r.model,
      r.engine,
      r.dtype,
      `${r.msMedian.toFixed(2)} (${r.msP10.toFixed(2)}–${r.msP90.toFixed(2)})`,
      (r.msMedian / dense).toFixed(2),
      (r.gmacs / denseGmacs).toFixed(2),
      r.loadMs.toFixed(0),
      r.maxAbsDiff.toExponential(1),
      r.dispatches ?? "",
      r.encodeMs?.toFixed(2) ?? "",
    ].join(" | "),
  );
  return [
    isSoftware
      ? `${device}: a software adapter. The outputs are checked; the milliseconds are those of a CPU and say nothing about a GPU.`
      : `${device}, through Dawn in Node ${process.versions.node}`,
    "",
    `| model | engine | weights | ${isSoftware ? "ms in software" : "ms"}, median (p10–p90) | of the first | MACs, of the first | load ms | max log-probability error | dispatches | JavaScript ms |`,
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ...lines.map((line) => `| ${line} |`),
  ].join("\n");
}
