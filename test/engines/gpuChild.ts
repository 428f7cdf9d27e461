/** What gpuProcess.ts starts: WebGPU on SwiftShader in a process of its own, which does what its messages ask. */
import { openWebgpu, type WebgpuEngine } from "../../src/engines/webgpu/engine.ts";
import type { Model } from "../../src/format/model.ts";
import { provideWebGpu } from "../../tools/training/backend.ts";
import type { Answer, Job, Jobs } from "./gpuProcess.ts";

/** Buffers that are alive, of all devices. */
let buffers = 0;

/** The device of all networks and kernels, but for those jobs that end devices. */
let shared: GPUDevice | undefined;

async function start(): Promise<void> {
  await provideWebGpu();
  const { createBuffer } = GPUDevice.prototype;
  GPUDevice.prototype.createBuffer = function (descriptor) {
    const buffer = createBuffer.call(this, descriptor);
    const { destroy } = buffer;
    let isAlive = true;
    const end = () => {
      if (isAlive) buffers--;
      isAlive = false;
    };
    buffers++;
    buffer.destroy = () => {
      end();
      return destroy.call(buffer);
    };
    void this.lost.then(end);
    return buffer;
  };
  process.on("message", (job: Job) => void answer(job));
}

/** The name decides on tiles and on how int8 is multiplied. */
let sharedName = "SwiftShader";

/** Engines that are opened meanwhile get the shared device. */
async function onSharedDevice<T>(work: () => Promise<T>): Promise<T> {
  const { requestDevice } = GPUAdapter.prototype;
  GPUAdapter.prototype.requestDevice = async function (...args) {
    shared ??= compileOnce(await requestDevice.apply(this, args));
    return Object.defineProperty(shared, "adapterInfo", { value: { description: sharedName }, configurable: true });
  };
  try {
    return await work();
  } finally {
    GPUAdapter.prototype.requestDevice = requestDevice;
  }
}

/** dist/engine-webgpu.js, whose shaders the build has made terse. */
async function openBuilt(model: Model): Promise<WebgpuEngine> {
  const file = new URL("../../dist/engine-webgpu.js", import.meta.url).href;
  const { engines } = (await import(file)) as { engines: { webgpu: typeof openWebgpu } };
  return engines.webgpu(model);
}

/** SwiftShader compiles a shader for about as long as it runs a small network, so each is compiled once. */
function compileOnce(device: GPUDevice): GPUDevice {
  const modules = new Map<string, GPUShaderModule>();
  const pipelines = new Map<GPUShaderModule, Promise<GPUComputePipeline>>();
  const { createShaderModule, createComputePipelineAsync } = device;
  device.createShaderModule = (descriptor) => {
    const known = modules.get(descriptor.code);
    const module = known ?? createShaderModule.call(device, descriptor);
    modules.set(descriptor.code, module);
    return module;
  };
  device.createComputePipelineAsync = (descriptor) => {
    const { module } = descriptor.compute;
    const pipeline = pipelines.get(module) ?? createComputePipelineAsync.call(device, descriptor);
    pipelines.set(module, pipeline);
    return pipeline;
  };
  device.destroy = () => undefined;
  return device;
}

const jobs: { [K in keyof Jobs]: (job: Jobs[K]["job"]) => Promise<Jobs[K]["answer"]> } = {
  kernel: (job) =>
    onSharedDevice(async () => {
      const adapter = await navigator.gpu.requestAdapter();
      return runKernel(await adapter!.requestDevice(), job);
    }),

  run: ({ model, calls, withoutTimestamps, asGpu, built }) =>
    onSharedDevice(async () => {
      sharedName = asGpu ? "a GPU" : "SwiftShader";
      const engine = built ? await openBuilt(model) : await openWebgpu(model);
      const { features } = shared!;
      const setFeatures = (value: unknown) =>
        Object.defineProperty(shared, "features", { value, configurable: true, writable: true });
      if (withoutTimestamps) setFeatures(new Set());
      const hasTimestamps = shared!.features.has("timestamp-query");
      try {
        const outputs = [];
        for (const { pixels, options } of calls) outputs.push(await engine.runBatch(pixels, options));
        const { dispatches, encodeMs, memoryBytes } = engine;
        return { outputs, dispatches, encodeMs, memoryBytes, buffers, hasTimestamps };
      } finally {
        setFeatures(features);
        engine.dispose();
      }
    }),

  async seconds() {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  },

  async rounds({ model, pixels, count, shared }) {
    const left: number[] = [];
    for (let i = 0; i < count; i++) {
      const engine = shared ? await onSharedDevice(() => openWebgpu(model)) : await openWebgpu(model);
      await engine.run(pixels);
      engine.dispose();
      engine.dispose();
      await new Promise((resolve) => setTimeout(resolve));
      left.push(buffers);
    }
    return left;
  },

  async faults({ model, pixels }) {
    const codes: Record<string, string> = {};
    const codeOf = (promise: Promise<unknown>) =>
      promise.then(
        () => "none",
        (error) => error.code,
      );
    const engine = await openWebgpu(model);
    codes.before = await codeOf(engine.run(pixels, { signal: AbortSignal.abort() }));
    codes.size = await codeOf(engine.run(pixels.subarray(1)));
    codes.several = await codeOf(engine.runBatch([pixels, pixels], { profile: true }));
    const controller = new AbortController();
    const many = Array<Float32Array>(70).fill(pixels);
    const aborted = engine.runBatch(many, { signal: controller.signal });
    setTimeout(() => controller.abort());
    codes.between = await codeOf(aborted);
    codes.after = await codeOf(engine.run(pixels));
    const [first, second] = [engine.run(pixels), engine.run(pixels)];
    engine.dispose();
    codes.flying = await codeOf(first);
    codes.waiting = await codeOf(second);
    codes.disposed = await codeOf(engine.run(pixels));

    const { requestDevice } = GPUAdapter.prototype;
    let device!: GPUDevice;
    GPUAdapter.prototype.requestDevice = async function (...args) {
      device = await requestDevice.apply(this, args);
      return device;
    };
    const lost = await openWebgpu(model);
    GPUAdapter.prototype.requestDevice = requestDevice;
    const running = lost.run(pixels);
    device.destroy();
    codes.lost = await codeOf(running);
    codes.lostBefore = await codeOf(lost.run(pixels));
    lost.dispose();
    return codes;
  },
};

async function runKernel(
  device: GPUDevice,
  { shader, data, outputs, workgroups }: Jobs["kernel"]["job"],
): Promise<Jobs["kernel"]["answer"]> {
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code: shader.code });
  const pipeline = await device.createComputePipelineAsync({ layout: "auto", compute: { module } });
  const { STORAGE, UNIFORM, COPY_DST, COPY_SRC, MAP_READ } = GPUBufferUsage;
  const made = new Map<string, GPUBuffer>();
  const bufferOf = (name: string) => {
    const values = data[name];
    const usage = COPY_DST | COPY_SRC | (name === "call" || name === "shape" ? UNIFORM : STORAGE);
    const buffer = device.createBuffer({ size: Math.max(16, values.byteLength), usage });
    device.queue.writeBuffer(buffer, 0, values as Float32Array<ArrayBuffer>);
    made.set(name, buffer);
    return buffer;
  };
  const entries = shader.bindings.map((name, binding) => ({ binding, resource: { buffer: bufferOf(name) } }));
  const group = device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, group);
  pass.dispatchWorkgroups(...workgroups);
  pass.end();
  const read = outputs.map((name) => {
    const { size } = made.get(name)!;
    const target = device.createBuffer({ size, usage: COPY_DST | MAP_READ });
    encoder.copyBufferToBuffer(made.get(name)!, 0, target, 0, size);
    return target;
  });
  device.queue.submit([encoder.finish()]);
  const fault = await device.popErrorScope();
  const results: Record<string, Float32Array> = {};
  for (const [i, target] of read.entries()) {
    await target.mapAsync(GPUMapMode.READ);
    results[outputs[i]] = new Float32Array(target.getMappedRange().slice(0));
  }
  for (const buffer of [...made.values(), ...read]) buffer.destroy();
  if (fault) throw new Error(fault.message);
  return results;
}

async function answer({ id, kind, job }: Job): Promise<void> {
  let reply: Answer;
  try {
    if (buffers) throw new Error(`${buffers} buffers are left of what was asked before`);
    // biome-ignore lint/suspicious/noExplicitAny: the kind names the job's type
    reply = { id, value: await (jobs[kind] as (job: any) => Promise<unknown>)(job) };
  } catch (error) {
    const { message, code } = error as Error & { code?: string };
    reply = { id, error: message, code };
  }
  process.send!(reply);
}

void start().then(() => process.send!({ ready: true }));
