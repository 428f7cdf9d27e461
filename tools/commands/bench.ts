import { SlimViTError } from "../../src/errors.ts";
import { DTYPES, ENGINES, SEED } from "../options/shared.ts";
import { type OptionsOf, optional, withDefault } from "../options/spec.ts";
import { count, counts, list } from "../options/values.ts";
import { print } from "../shared/terminal.ts";
import { finish, newCommand } from "./command.ts";

const WEBGPU_ENGINES = ["webgpu", "tfjs-webgpu", "onnx-webgpu"] as const;
const BENCH_ENGINES = [...ENGINES.filter((name) => name !== "auto"), "webnn" as const, ...WEBGPU_ENGINES];
const WEBNN_DEVICES = ["cpu", "gpu", "npu"] as const;

const OPTIONS = {
  engine: withDefault("--engine <list>", `of ${BENCH_ENGINES.join(", ")}, separated by commas`, list(BENCH_ENGINES), [
    "simd",
  ]),
  dtype: optional(
    "--dtype <list>",
    `of ${DTYPES.join(", ")}, separated by commas; by default all that a model has, and f32 of random weights`,
    list(DTYPES),
  ),
  threads: withDefault("--threads <list>", "numbers of threads, separated by commas", counts, [1]),
  webnnDevice: optional(
    "--webnn-device <list>",
    `devices that engine webnn requests, of ${WEBNN_DEVICES.join(", ")}, separated by commas`,
    list(WEBNN_DEVICES),
  ),
  rounds: withDefault("--rounds <n>", "timed runs of each combination", count, 30),
  seed: SEED,
};

type Options = OptionsOf<typeof OPTIONS>;

const SOURCES: [string, string] = [
  "<models...>",
  "model folders, or shapes with random weights such as random:deit-small; the single word kernels measures the kernels",
];

export const benchCommand = () =>
  newCommand(
    "bench",
    "measure milliseconds an image, in a headless Chromium; engines on WebGPU in Node, on this machine's GPU",
    [SOURCES],
    OPTIONS,
  ).action(async (sources: string[], options: Options) => {
    const { rows, table } = await measured(sources, options);
    if (!options.json) print(table);
    finish(options, rows);
  });

async function measured(sources: string[], options: Options): Promise<{ rows: unknown; table: string }> {
  if (sources.length === 1 && sources[0] === "kernels") {
    const { benchKernels, kernelsTable } = await import("../bench/benchKernels.ts");
    const rows = await benchKernels(options.rounds);
    return { rows, table: kernelsTable(rows) };
  }
  const onWebGpu = WEBGPU_ENGINES.filter((engine) => options.engine.includes(engine));
  if (onWebGpu.length) {
    if (onWebGpu.length < options.engine.length)
      throw new SlimViTError(
        "bad-option",
        "bench: engines on WebGPU are measured in Node, and the others in a browser. Name engines of one kind only.",
      );
    const { benchGpu, gpuBenchTable } = await import("../bench/benchGpu.ts");
    const rows = await benchGpu(sources, { ...options, engine: onWebGpu });
    return { rows, table: gpuBenchTable(rows) };
  }
  const { bench, benchTable } = await import("../bench/bench.ts");
  const rows = await bench(sources, options);
  return { rows, table: benchTable(rows) };
}
