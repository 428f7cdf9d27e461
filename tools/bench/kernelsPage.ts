/** The page of benchKernels.ts: runs single linears of the simd engine, and the loop that measures the peak. */
import { chooseFlavour, compileKernels, type Flavour } from "../../src/engines/simd/binary.ts";
import * as L from "../../src/engines/simd/layout.ts";
import type { PackedLinear } from "../../src/engines/simd/linears.ts";
import { planMemory } from "../../src/engines/simd/plan.ts";
import { importsOf } from "../../src/engines/simd/threads.ts";
import { loadConstants, type Packer, packWeights } from "../../src/engines/simd/weights.ts";
import { type Model, plainArchitecture, type Tensors, tensorShapes } from "../../src/format/model.ts";
import { singleVariant } from "../../src/format/variants.ts";
import { encodeTensors } from "../../src/format/write.ts";
import type { KernelRow } from "./benchKernels.ts";

const ROWS = 197;
const WARM_UP = 5;
/**
 * Milliseconds of one timing: long enough for the clock, short enough that other processes do not disturb every timing.
 */
const TURN_MS = 4;
const NAMES = ["qkv", "proj", "fc1", "fc2"] as const;

interface Kernels extends Packer {
  start(plan: number, index: number): void;
  /** @param call address of a LinearCall (assembly/calls.ts) */
  linearPhase(call: number): void;
}

interface Timed {
  row: Omit<KernelRow, "gflops" | "shareOfPeak" | "peakGflops">;
  flops: number;
  run(): void;
}

async function measure(rounds: number): Promise<KernelRow[]> {
  const flavour = chooseFlavour();
  const cases: Timed[] = [];
  for (const [name, dim] of [
    ["DeiT-Ti", 192],
    ["DeiT-S", 384],
  ] as const)
    for (const dtype of ["f32", "f16", "int8"] as const) cases.push(...(await linears(name, dim, dtype, flavour)));
  const peak = await peakLoop(flavour);
  const all = [peak, ...cases];
  const rates = all.map(() => [] as number[]);
  const counts = all.map(() => 1);
  for (let round = 0; round < WARM_UP + rounds; round++) {
    for (const [k, { run, flops }] of all.entries()) {
      const start = performance.now();
      for (let i = 0; i < counts[k]; i++) run();
      const ms = performance.now() - start;
      if (round >= WARM_UP) rates[k].push((flops * counts[k]) / ms / 1e6);
      else counts[k] = Math.max(1, Math.round((counts[k] * TURN_MS) / Math.max(ms, 0.1)));
    }
    await new Promise((resolve) => setTimeout(resolve));
  }
  const [peakGflops, ...gflops] = rates.map((values) => Math.max(...values));
  return cases.map(({ row }, k) => ({ ...row, gflops: gflops[k], shareOfPeak: gflops[k] / peakGflops, peakGflops }));
}

async function linears(name: string, dim: number, dtype: KernelRow["dtype"], flavour: Flavour): Promise<Timed[]> {
  const model = oneBlock(dim, dtype);
  const { plan, cargo } = planMemory(model, { flavour, threads: 1, spins: 0, maySleep: false });
  // Behind the plan's memory lie activations, quantisation ranges and results of the widest linear.
  const [x, bytes] = [plan.bytes, ROWS * 4 * dim * 4];
  const [ranges, dst, calls] = [x + bytes, x + bytes + ROWS * 8, x + 2 * bytes + ROWS * 8];
  const pages = Math.ceil((calls + NAMES.length * L.CALL_BYTES) / 65_536);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
  const module = await compileKernels(flavour, false);
  const kernels = (await WebAssembly.instantiate(module, importsOf(memory))).exports as unknown as Kernels;
  const packed = NAMES.map((_, i) => cargo.linears.find((linear) => isLinear(linear, dim, i))!);
  loadConstants(cargo, memory);
  packWeights(cargo, memory, kernels);
  kernels.start(plan.at, 0);
  new Uint8Array(memory.buffer, x, bytes).fill(60); // as f32 0.0115, as a level 60
  new Float32Array(memory.buffer, ranges, ROWS * 2).fill(0.01);
  return packed.map(({ at }, i) => {
    const [inputs, outputs] = sizes(dim, i);
    const call = new Int32Array(memory.buffer, calls + i * L.CALL_BYTES, L.CALL_BYTES / 4);
    const setCall = () => {
      call[L.LINEAR_CALL_LINEAR] = at;
      call[L.LINEAR_CALL_X] = x;
      call[L.LINEAR_CALL_X_STRIDE] = dtype === "int8" ? inputs * (flavour === "relaxed" ? 1 : 2) : inputs * 4;
      call[L.LINEAR_CALL_RANGES] = ranges;
      call[L.LINEAR_CALL_ROWS] = ROWS;
      call[L.LINEAR_CALL_DST] = dst;
      call[L.LINEAR_CALL_DST_STRIDE] = outputs * 4;
    };
    return {
      row: { linear: `${name} ${NAMES[i]}`, shape: [ROWS, inputs, outputs], dtype },
      flops: 2 * ROWS * inputs * outputs,
      run: () => {
        setCall(); // the phase leaves its destination elsewhere
        kernels.linearPhase(call.byteOffset);
      },
    };
  });
}

function sizes(dim: number, linear: number): [number, number] {
  return (
    [
      [dim, 3 * dim],
      [dim, dim],
      [dim, 4 * dim],
      [4 * dim, dim],
    ] as [number, number][]
  )[linear];
}

function isLinear({ weight }: PackedLinear, dim: number, linear: number): boolean {
  const [inputs, outputs] = sizes(dim, linear);
  return weight.shape[0] === outputs && weight.shape[1] === inputs;
}

function oneBlock(dim: number, dtype: KernelRow["dtype"]): Model {
  const arch = plainArchitecture({
    imageSize: [224, 224],
    patchSize: 16,
    embedDim: dim,
    headDim: 64,
    layerNormEps: 1e-6,
    prefixTokens: 1,
    blocks: [{ headDims: Array<number>(dim / 64).fill(64), mlpHidden: 4 * dim, keepIdx: [...Array(ROWS).keys()] }],
  });
  const tensors: Tensors = new Map();
  for (const [key, shape] of tensorShapes(arch, 8)) {
    const length = shape.reduce((a, b) => a * b, 1);
    tensors.set(key, { dtype: "F32", shape, data: Float32Array.from({ length }, () => Math.random() - 0.5) });
  }
  const preprocess = {} as Model["manifest"]["preprocess"];
  const rest = {
    name: "",
    license: "",
    preprocess,
    labels: [],
    weights: [],
    provenance: {},
    metrics: {},
  };
  return { manifest: singleVariant({ ...arch, ...rest }), dtype, tensors: encodeTensors(tensors, dtype) };
}

/**
 * A WebAssembly module with one loop over twelve independent sums, as many as the kernels' largest tile has.
 * run(n): n times sum[i] += a × b, i in 0 … 11.
 */
async function peakLoop(flavour: Flavour): Promise<Timed> {
  const [sums, steps] = [12, 100_000];
  const simd = (op: number) => [0xfd, ...leb(op)];
  const get = (i: number) => [0x20, ...leb(i)];
  const set = (i: number) => [0x21, ...leb(i)];
  const [a, b, first] = [1, 2, 3]; // locals; 0 is n
  const step = (i: number) =>
    flavour === "relaxed"
      ? [...get(a), ...get(b), ...get(i), ...simd(0x105), ...set(i)] // f32x4.relaxed_madd
      : [...get(a), ...get(b), ...simd(0xe6), ...get(i), ...simd(0xe4), ...set(i)]; // f32x4.mul, f32x4.add
  const all = Array.from({ length: sums }, (_, i) => first + i);
  const total = all.slice(1).flatMap((i) => [...get(i), ...simd(0xe4)]);
  const body = [
    ...[1, ...leb(2 + sums), 0x7b], // that many v128 locals
    ...[0x03, 0x40, ...all.flatMap(step)], // loop
    ...[...get(0), 0x41, 1, 0x6b, 0x22, 0, 0x0d, 0, 0x0b], // n = n − 1; again unless 0; end
    ...[...get(first), ...total, ...simd(0x1f), 0, 0x0b], // lane 0 of the sum of sums, so that none is left out
  ];
  const section = (id: number, bytes: number[]) => [id, ...leb(bytes.length), ...bytes];
  const bytes = [
    ...[0, 97, 115, 109, 1, 0, 0, 0],
    ...section(1, [1, 0x60, 1, 0x7f, 1, 0x7d]), // (i32) → f32
    ...section(3, [1, 0]),
    ...section(7, [1, 3, 114, 117, 110, 0, 0]), // "run"
    ...section(10, [1, ...leb(body.length), ...body]),
  ];
  const { instance } = await WebAssembly.instantiate(new Uint8Array(bytes));
  const { run } = instance.exports as { run(n: number): number };
  const row: Timed["row"] = { linear: "peak", shape: [0, 0, 0], dtype: "f32" };
  return { row, flops: 2 * 4 * sums * steps, run: () => void run(steps) };
}

/** Unsigned LEB128. */
function leb(value: number): number[] {
  return value < 128 ? [value] : [(value & 127) | 128, ...leb(value >> 7)];
}

Object.assign(globalThis, { measure });
