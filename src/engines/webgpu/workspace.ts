/** The buffers, pipelines and bind groups of one plan, made once and used by every call. */
import type { ActivationName, Binding, Constant, Plan, Step } from "./steps.ts";

/** What the plans of engines share on a device: the weights, and one pipeline for all layers that run it. */
export class DeviceCache {
  private readonly constants = new Map<string, GPUBuffer>();
  private readonly pipelines = new Map<string, Promise<GPUComputePipeline>>();

  constructor(readonly device: GPUDevice) {}

  get memoryBytes(): number {
    return [...this.constants.values()].reduce((sum, { size }) => sum + size, 0);
  }

  constant({ name, make }: Constant): GPUBuffer {
    let buffer = this.constants.get(name);
    if (!buffer) {
      buffer = this.upload(name, make(), GPUBufferUsage.STORAGE);
      this.constants.set(name, buffer);
    }
    return buffer;
  }

  upload(label: string, data: Float32Array | Uint32Array, usage: number): GPUBuffer {
    const size = Math.max(data.byteLength, 16);
    const buffer = this.device.createBuffer({ label, size, usage, mappedAtCreation: true });
    const mapped = buffer.getMappedRange();
    if (data instanceof Float32Array) new Float32Array(mapped).set(data);
    else new Uint32Array(mapped).set(data);
    buffer.unmap();
    return buffer;
  }

  destroy(): void {
    for (const buffer of this.constants.values()) buffer.destroy();
  }

  /** Compiled beside the thread. */
  pipeline({ shader: { code }, label }: Step): Promise<GPUComputePipeline> {
    let pipeline = this.pipelines.get(code);
    if (!pipeline) {
      const module = this.device.createShaderModule({ label, code });
      pipeline = this.device.createComputePipelineAsync({ label, layout: "auto", compute: { module } });
      this.pipelines.set(code, pipeline);
    }
    return pipeline;
  }
}

/** A step that is ready to run. */
export interface Dispatch {
  block: number;
  pipeline: GPUComputePipeline;
  group: GPUBindGroup;
  workgroups: Step["workgroups"];
  choosesPairs?: boolean;
}

export class Workspace {
  readonly dispatches: Dispatch[] = [];
  /** by block, where it has heads */
  readonly explain: (Dispatch | undefined)[] = [];
  private readonly buffers = new Map<ActivationName | "call", GPUBuffer>();
  /** Two, so that a batch can be computed while the results of the one before are read. */
  private readonly results: GPUBuffer[] = [];
  private readonly uniforms: GPUBuffer[] = [];
  private pictures = 0;
  private turn = 0;

  private constructor(
    private readonly device: GPUDevice,
    readonly plan: Plan,
    /** pictures in one submission */
    readonly capacity: number,
  ) {}

  static async open(cache: DeviceCache, plan: Plan, capacity: number): Promise<Workspace> {
    const workspace = new Workspace(cache.device, plan, capacity);
    try {
      await workspace.prepareAll(cache);
    } catch (error) {
      workspace.destroy();
      throw error;
    }
    return workspace;
  }

  private async prepareAll(cache: DeviceCache): Promise<void> {
    const { plan } = this;
    this.createBuffers();
    const explain = plan.explain.filter((step) => step !== undefined);
    const ready = await Promise.all([...plan.steps, ...explain].map((step) => this.prepare(cache, step)));
    this.dispatches.push(...ready.slice(0, plan.steps.length));
    const maps = ready.slice(plan.steps.length);
    for (const step of plan.explain) this.explain.push(step && maps.shift());
  }

  get memoryBytes(): number {
    return [...this.buffers.values(), ...this.results].reduce((sum, { size }) => sum + size, 0);
  }

  buffer(name: ActivationName): GPUBuffer {
    return this.buffers.get(name)!;
  }

  /** Uploads pictures, each [3, height, width]. */
  upload(pixels: readonly Float32Array[]): void {
    const { queue } = this.device;
    const bytes = this.plan.floats.pixels * 4;
    pixels.forEach((picture, i) => {
      queue.writeBuffer(this.buffer("pixels"), i * bytes, picture as Float32Array<ArrayBuffer>);
    });
    if (pixels.length !== this.pictures) {
      this.pictures = pixels.length;
      queue.writeBuffer(this.buffers.get("call")!, 0, new Uint32Array([this.pictures, 0, 0, 0]));
    }
  }

  /** Encodes one dispatch in a pass. */
  encode(pass: GPUComputePassEncoder, { pipeline, group, workgroups }: Dispatch): void {
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(...workgroups(this.pictures));
  }

  /** Encodes the copy of the results into a buffer that the CPU can read. @returns that buffer */
  encodeResults(encoder: GPUCommandEncoder, withMaps: boolean): GPUBuffer {
    const target = this.results[this.turn++ % this.results.length];
    let at = 0;
    for (const name of withMaps ? RESULTS : RESULTS.slice(0, 2)) {
      const size = this.buffer(name).size;
      encoder.copyBufferToBuffer(this.buffer(name), 0, target, at, size);
      at += size;
    }
    return target;
  }

  /** Where a result begins in the results' buffer, in floats. */
  resultAt(name: (typeof RESULTS)[number]): number {
    const before = RESULTS.slice(0, RESULTS.indexOf(name));
    return before.reduce((sum, other) => sum + this.buffer(other).size / 4, 0);
  }

  /**
   * Writes the result that `alikeShader` would have if only these pairs were similar.
   *
   * @param partners for each patch of A the row that it merges into, or −1
   */
  forcePairs(block: number, partners: Int32Array): void {
    const alike = new Float32Array(2 * partners.length);
    partners.forEach((partner, a) => void alike.set(partner < 0 ? [-1, 0] : [1, partner], 2 * a));
    this.device.queue.writeBuffer(this.buffer("alike"), 4 * this.plan.merges[block]!.alikeAt, alike);
  }

  destroy(): void {
    for (const buffer of [...this.buffers.values(), ...this.results, ...this.uniforms]) buffer.destroy();
  }

  private createBuffers(): void {
    const { device, plan, capacity } = this;
    const { STORAGE, COPY_DST, COPY_SRC, UNIFORM, MAP_READ } = GPUBufferUsage;
    for (const [key, floats] of Object.entries(plan.floats)) {
      const name = key as ActivationName;
      const size = Math.max(16, 4 * floats * (OF_ONE_PICTURE.includes(name) ? 1 : capacity));
      const usage = STORAGE | (name === "pixels" || name === "alike" ? COPY_DST : COPY_SRC);
      this.buffers.set(name, device.createBuffer({ label: name, size, usage }));
    }
    this.buffers.set("call", device.createBuffer({ label: "call", size: 16, usage: UNIFORM | COPY_DST }));
    const size = RESULTS.reduce((sum, name) => sum + this.buffer(name).size, 0);
    for (let i = 0; i < 2; i++) {
      this.results.push(device.createBuffer({ label: "results", size, usage: MAP_READ | COPY_DST }));
    }
  }

  private async prepare(cache: DeviceCache, step: Step): Promise<Dispatch> {
    const { block, shader, buffers, workgroups, choosesPairs } = step;
    const resources = shader.bindings.map((name) => this.resource(cache, buffers[name]));
    const pipeline = await cache.pipeline(step);
    const entries = resources.map((resource, binding) => ({ binding, resource }));
    const group = this.device.createBindGroup({ label: step.label, layout: pipeline.getBindGroupLayout(0), entries });
    return { block, pipeline, group, workgroups, choosesPairs };
  }

  private resource(cache: DeviceCache, binding: Binding): GPUBufferBinding {
    if (binding === "call") return { buffer: this.buffers.get("call")! };
    if ("uniform" in binding) {
      const buffer = cache.upload("shape", binding.uniform, GPUBufferUsage.UNIFORM);
      this.uniforms.push(buffer);
      return { buffer };
    }
    if ("constant" in binding) return { buffer: cache.constant(binding.constant) };
    return { buffer: this.buffer(binding.activation), offset: 4 * (binding.offset ?? 0) };
  }
}

/** The buffers that a call reads back, in their order in the results' buffer. */
const RESULTS = ["logits", "features", "maps", "pairs"] as const;
const OF_ONE_PICTURE: readonly ActivationName[] = ["maps", "pairs"];
