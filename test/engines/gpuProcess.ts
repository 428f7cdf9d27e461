/** WebGPU in Node on SwiftShader. Dawn finds the driver by the environment that a process starts with, so it has its own. */
import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { RunOptions, RunOutput } from "../../src/engines/engine.ts";
import type { Shader } from "../../src/engines/webgpu/shader.ts";
import type { Model } from "../../src/format/model.ts";
import { swiftShader } from "../tools/swiftshader.ts";

type Data = Float32Array | Uint32Array;

/** What can be asked of the process. */
export interface Jobs {
  /** One kernel on given data. */
  kernel: {
    job: { shader: Shader; data: Record<string, Data>; outputs: string[]; workgroups: [number, number, number] };
    answer: Record<string, Float32Array>;
  };
  /** Of the processor, that the process has taken. */
  seconds: { job: Record<string, never>; answer: number };
  /**
   * A network opened once, by the sources or by the built file; each call has a list of pictures. The device can be made
   * one that has no clock, or named a GPU.
   */
  run: {
    job: {
      model: Model;
      calls: { pixels: Float32Array[]; options?: RunOptions }[];
      withoutTimestamps?: boolean;
      asGpu?: boolean;
      built?: boolean;
    };
    answer: {
      outputs: RunOutput[][];
      dispatches: number;
      encodeMs: number;
      memoryBytes: number;
      buffers: number;
      hasTimestamps: boolean;
    };
  };
  /**
   * Opened, run and disposed of so many times, on the shared device or on one of its own each.
   *
   * @returns buffers that are left after each
   */
  rounds: { job: { model: Model; pixels: Float32Array; count: number; shared: boolean }; answer: number[] };
  /** The error codes of calls that must fail. */
  faults: { job: { model: Model; pixels: Float32Array }; answer: Record<string, string> };
}

export interface Job {
  id: number;
  kind: keyof Jobs;
  job: unknown;
}

export interface Answer {
  id: number;
  value?: unknown;
  error?: string;
  code?: string;
}

export class GpuProcess {
  private readonly waiting = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>();
  private next = 0;

  private constructor(private readonly child: ChildProcess) {
    child.on("message", ({ id, value, error, code }: Answer) => {
      const { resolve, reject } = this.waiting.get(id)!;
      this.waiting.delete(id);
      if (error === undefined) resolve(value as never);
      else reject(Object.assign(new Error(error), { code }));
    });
    child.on("exit", (code) => {
      for (const { reject } of this.waiting.values()) reject(new Error(`the GPU's process ended with ${code}`));
    });
  }

  static async start(): Promise<GpuProcess> {
    const child = fork(fileURLToPath(new URL("gpuChild.ts", import.meta.url)), {
      execArgv: ["--import", "tsx"],
      env: { ...process.env, ...swiftShader() },
      serialization: "advanced",
    });
    await new Promise((resolve, reject) => {
      child.once("message", resolve);
      child.once("exit", (code) => reject(new Error(`the GPU's process ended with ${code}`)));
    });
    return new GpuProcess(child);
  }

  ask<K extends keyof Jobs>(kind: K, job: Jobs[K]["job"]): Promise<Jobs[K]["answer"]> {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.child.send({ id, kind, job } satisfies Job);
    });
  }

  async end(): Promise<void> {
    const seconds = await this.ask("seconds", {});
    console.log(`the GPU's process took ${seconds.toFixed(1)} s of the processor`);
    this.child.kill();
  }
}
