/** LiteRT.js: on the CPU (XNNPACK), on WebGPU or on WebNN. A classic worker: its loader calls importScripts. */
import { type CompiledModel, loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";
import { servePeer } from "./peer.ts";

let compiled: CompiledModel;

servePeer({
  async open({ base, model, threads, accelerator = "wasm" }) {
    // By default its loader looks for files beside the worker's own script.
    Object.assign(self, {
      Module: {
        locateFile: (file: string) => `${base}litert/${file}`,
        mainScriptUrlOrBlob: `${base}litert/litert_wasm_threaded_internal.js`,
      },
    });
    await loadLiteRt(`${base}litert/`, { threads: threads > 1, jspi: accelerator === "webnn" });
    // Without this it may compute in f16 on a GPU.
    const gpuOptions = { precision: "fp32" as const };
    compiled = await loadAndCompile(base + model, { accelerator, cpuOptions: { numThreads: threads }, gpuOptions });
  },
  async run(pixels) {
    const side = Math.sqrt(pixels.length / 3);
    const start = performance.now();
    const input = new Tensor(pixels, [1, 3, side, side]);
    const [output] = await compiled.run(input);
    const onCpu = output.accelerator === "webgpu" ? await output.moveTo("wasm") : output;
    const logits = Float32Array.from(onCpu.toTypedArray() as Float32Array);
    const ms = performance.now() - start;
    input.delete();
    onCpu.delete();
    return { logits, ms };
  },
});
