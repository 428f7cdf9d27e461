// Engine, weights and threads: what works here, and for what does not, why.
import { $, counted, element } from "./words.js";

/** The package's engines, fastest first, each with a short description. */
export const ENGINES = {
  webgpu: "our own shaders on the graphics card",
  simd: "our own WASM kernels",
  "onnx-webgpu": "onnxruntime-web on the graphics card",
  "tfjs-webgpu": "TensorFlow.js on the graphics card",
  webnn: "the browser's own networks, WebNN",
  "onnx-wasm": "onnxruntime-web on the processor",
  reference: "plain loops, seconds a picture",
};
const DTYPES = ["f32", "f16", "int8"];
const THREADS = [1, 2, 4, 8];
/** Weights that the page starts with: the smallest download and the fewest milliseconds. */
const FIRST_DTYPE = "int8";

export class Pickers {
  /** why an engine does not work here */
  #refused = new Map();
  #dtypes = DTYPES;
  #notes = [];

  /** @param {() => void} onChange something else was chosen */
  constructor(onChange) {
    this.#fill("engine", ["auto", ...Object.keys(ENGINES)], onChange);
    this.#fill("dtype", ["auto", ...DTYPES], onChange);
    choose("dtype", FIRST_DTYPE);
    this.#fill("threads", ["auto", ...THREADS], onChange);
    this.#showReasons();
  }

  /** @returns {Promise<void>} once it is known whether there is a graphics device to compute on, and WebNN */
  async probe() {
    if (!("ml" in navigator)) this.#refused.set("webnn", "this browser has no WebNN");
    const reason = await webGpuFault();
    for (const name of Object.keys(ENGINES)) if (reason && name.endsWith("webgpu")) this.#refused.set(name, reason);
    this.#showReasons();
  }

  get engine() {
    return chosen("engine");
  }
  get dtype() {
    return chosen("dtype");
  }
  get threads() {
    return chosen("threads") === "auto" ? "auto" : Number(chosen("threads"));
  }
  get engines() {
    return Object.keys(ENGINES).filter((name) => !this.#refused.has(name));
  }

  /** Called when an engine did not open. Goes back to auto. */
  refuse(engine, reason) {
    this.#refused.set(engine, reason);
    choose("engine", "auto");
    this.#showReasons();
  }

  /** @param {string[]} dtypes those that the slim model's folder has */
  offerDtypes(dtypes) {
    this.#dtypes = dtypes;
    if (this.dtype !== "auto" && !dtypes.includes(this.dtype)) choose("dtype", "auto");
    this.#showReasons();
  }

  /** Shows what was chosen and why. `notes` of the package and of this page are added to the reasons. */
  report(info, notes) {
    const { engine, engineReason, threads, dtype, tried } = info;
    const how = `${engine} on ${counted(threads, "thread")}, ${dtype} weights`;
    const others = tried.map(({ engine, ms }) => (ms ? `${engine}: ${ms.toFixed(1)} ms` : `${engine} did not open`));
    const why = tried.length ? `${engineReason}; ${others.join(", ")}` : `${engineReason}, and it passed its self-test`;
    $("chosen").textContent =
      this.engine === "auto" ? `Auto chose ${how}: ${why}.` : `Running ${how}: ${ENGINES[engine]}.`;
    for (const { engine, reason, ms } of tried) if (!ms) this.#refused.set(engine, reason);
    this.#notes = notes;
    this.#showReasons();
  }

  #fill(id, values, onChange) {
    for (const value of values) {
      const radio = element("input", { type: "radio", name: id, value, checked: value === "auto" });
      $(id).append(element("label", { title: ENGINES[value] ?? "" }, radio, String(value)));
    }
    $(id).addEventListener("change", onChange);
  }

  #showReasons() {
    const cores = navigator.hardwareConcurrency ?? 1;
    const threadFault = (n) => {
      if (n > 1 && !crossOriginIsolated) return "this page is served without isolation headers (COOP and COEP)";
      if (n > cores) return `this device has ${counted(cores, "core")}`;
    };
    const faults = [
      ...Object.keys(ENGINES).map((name) => ["engine", name, this.#refused.get(name)]),
      ...DTYPES.map((name) => ["dtype", name, this.#dtypes.includes(name) ? undefined : "not in this model's folder"]),
      ...THREADS.map((n) => ["threads", String(n), threadFault(n)]),
    ];
    const byReason = new Map();
    for (const [group, value, reason] of faults) {
      const radio = $(group).querySelector(`[value="${value}"]`);
      radio.disabled = Boolean(reason);
      radio.parentElement.title = reason ?? ENGINES[value] ?? "";
      if (!reason) continue;
      const key = `${group}\n${reason}`;
      byReason.set(key, [...(byReason.get(key) ?? []), value]);
    }
    const items = [...byReason].map(([key, values]) => {
      const [group, reason] = key.split("\n");
      const names = values.join(", ") + (group === "threads" ? " threads" : "");
      return element("li", {}, element("strong", { textContent: names }), ` ${reason}`);
    });
    $("reasons").replaceChildren(...items, ...this.#notes.map((note) => element("li", { textContent: note })));
  }
}

async function webGpuFault() {
  if (!isSecureContext) return "WebGPU is offered to pages on https only";
  if (!navigator.gpu) return "this browser has no WebGPU";
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  return adapter ? undefined : "this browser has WebGPU, but found no graphics device for it";
}

const chosen = (id) => $(id).querySelector(":checked").value;

function choose(id, value) {
  $(id).querySelector(`[value="${value}"]`).checked = true;
}
