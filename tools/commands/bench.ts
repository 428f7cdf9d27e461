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
  engine: withDefault("--engine <list>", "separated by commas", list(BENCH_ENGINES), ["onnx-wasm"]),
  dtype: withDefault("--dtype <list>", "separated by commas", list(DTYPES), ["f32"]),
  threads: withDefault("--threads <list>", "separated by commas", counts, [1]),
  webnnDevice: optional(
    "--webnn-device <list>",
    "that engine webnn asks for, separated by commas",
    list(WEBNN_DEVICES),
  ),
  rounds: withDefault("--rounds <n>", "timed runs of each", count, 30),
  seed: SEED,
};

type Options = OptionsOf<typeof OPTIONS>;

const SOURCES: [string, string] = [
  "<models...>",
  "model folders, random:deit-small and the like, or the one word kernels",
];

export const benchCommand = () =>
  newCommand(
    "bench",
    "milliseconds an image in a real headless browser; of engines on WebGPU: on this machine's GPU, in Node",
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
        "bench: engines on WebGPU are measured without a browser, the others in one; ask for one kind alone.",
      );
    const { benchGpu, gpuBenchTable } = await import("../bench/benchGpu.ts");
    const rows = await benchGpu(sources, { ...options, engine: onWebGpu });
    return { rows, table: gpuBenchTable(rows) };
  }
  const { bench, benchTable } = await import("../bench/bench.ts");
  const rows = await bench(sources, options);
  return { rows, table: benchTable(rows) };
}
