// Against what people run today: transformers.js and SlimViT on the same picture, on the visitor's device.
import { SlimViT } from "slimvit";
import { $, advice, counted, isOurDoing, milliseconds, quantile, spoken } from "./words.js";

/** The downloads and their addresses. The sizes are those of the files in transfer. */
const PEER = {
  address: "https://cdn.jsdelivr.net/npm/@huggingface/transformers@4.3.1/dist/transformers.min.js",
  version: "4.3.1",
  model: "Xenova/deit-tiny-distilled-patch16-224",
  dtype: "fp32",
  /** its f32 weights on Hugging Face */
  weightsMb: 23.9,
  /** the library and onnxruntime-web's WASM, in gzip */
  codeMb: 6.9,
};
const ROUNDS = 10;
const WARM_UP = 2;

/**
 * @param {() => { folder: string, picture: Blob }} setup the slim ImageNet model and the picture
 * @param {{ pause(): void, resume(): void }} page pauses other computations of the page
 */
export function setUpPeer(setup, page) {
  const total = Math.round(PEER.weightsMb + PEER.codeMb);
  $("peer-cost").textContent =
    `The usual way to run such a model in a page is transformers.js. Comparing downloads about ${total} MB from jsdelivr.net and ` +
    `huggingface.co: ${PEER.weightsMb} MB of f32 weights (DeiT-Ti distilled) and ${PEER.codeMb} MB of code. Your picture stays here.`;
  $("peer-code").textContent = code();
  let stop;
  $("peer").addEventListener("click", async () => {
    if (stop) return stop.abort();
    stop = new AbortController();
    $("peer").textContent = "Stop";
    $("peer-error").textContent = "";
    $("peer-result").hidden = true;
    page.pause();
    try {
      show(await measure(setup(), stop.signal));
      say("Done.");
    } catch (error) {
      say(isOurDoing(error) || stop.signal.aborted ? "Stopped." : "");
      if (!stop.signal.aborted) $("peer-error").textContent = advice(error);
    } finally {
      stop = undefined;
      $("peer").textContent = "Compare again";
      page.resume();
    }
  });
}

/** Both are open at once and take turns, so that a busy moment of the device slows both equally. */
async function measure({ folder, picture }, signal) {
  const peer = new Peer(signal);
  const url = `models/${folder}/`;
  let vit;
  let webnn;
  try {
    say("Downloading transformers.js and its model …");
    await peer.open();
    vit = await SlimViT.load(url, { engine: "simd", dtype: "int8", signal });
    webnn = await openWebnn(url, signal);
    const [ours, theirs, byWebnn] = [[], [], []];
    let labels;
    for (let round = -WARM_UP; round < ROUNDS; round++) {
      say(round < 0 ? "Warming up …" : `Round ${round + 1} of ${ROUNDS}`);
      const { classes, latencyMs } = await vit.classify(picture, { topK: 1, signal });
      const their = await peer.call("classify", { picture });
      const other = await webnn?.vit?.classify(picture, { topK: 1, signal });
      labels = { our: classes[0].label, their: their.label };
      if (round < 0) continue;
      ours.push(latencyMs.total);
      theirs.push(their.ms);
      if (other) byWebnn.push(other.latencyMs.total);
    }
    const [our, their] = [ours, theirs].map((times) => quantile(times, 0.5));
    return {
      ...{ labels, ours: our, theirs: their, info: vit.info },
      webnn: webnn && { fault: webnn.fault, ms: webnn.vit && quantile(byWebnn, 0.5) },
    };
  } finally {
    peer.close();
    vit?.dispose();
    webnn?.vit?.dispose();
  }
}

/**
 * The operating system's machine learning, where the browser has WebNN.
 *
 * @returns {Promise<{ vit?: SlimViT, fault?: string } | undefined>}
 */
async function openWebnn(url, signal) {
  if (!("ml" in navigator)) return;
  try {
    return { vit: await SlimViT.load(url, { engine: "webnn", dtype: "int8", signal }) };
  } catch (error) {
    if (isOurDoing(error)) throw error;
    return { fault: advice(error) };
  }
}

/** transformers.js in its worker. One call at a time. */
class Peer {
  #worker = new Worker(new URL("peer-worker.js", import.meta.url), { type: "module" });
  #signal;

  constructor(signal) {
    this.#signal = signal;
  }

  async open() {
    const { address, model, dtype } = PEER;
    await this.call("open", { address, model, dtype }).catch((error) => {
      if (this.#signal.aborted) throw error;
      const why = error.message.replace(/\.?$/, ".");
      throw new Error(
        `transformers.js or its model could not be loaded, so nothing was compared: ${why} ` +
          "Check the connection and whether something here blocks jsdelivr.net or huggingface.co, then try again.",
      );
    });
  }

  call(call, request) {
    return new Promise((resolve, reject) => {
      const abort = () => reject(new Error("stopped"));
      if (this.#signal.aborted) return abort();
      this.#signal.addEventListener("abort", abort, { once: true });
      this.#worker.onerror = (event) => reject(new Error(event.message || "its worker did not start"));
      this.#worker.onmessage = ({ data }) => (data.fault ? reject(new Error(data.fault)) : resolve(data.result));
      this.#worker.postMessage({ call, ...request });
    });
  }

  close() {
    this.#worker.terminate();
  }
}

function show({ labels, ours, theirs, info, webnn }) {
  const isSame = names(labels.their).includes(labels.our.toLowerCase());
  $("peer-ratio").textContent = `${(theirs / ours).toFixed(1)} ×`;
  $("peer-our-ms").textContent = `${milliseconds(ours)} ms`;
  $("peer-their-ms").textContent = `${milliseconds(theirs)} ms`;
  $("peer-our-label").textContent = `int8, ${(info.sizeBytes / 1e6).toFixed(1)} MB`;
  $("peer-their-label").textContent = `f32, ${PEER.weightsMb} MB`;
  $("peer-webnn").hidden = !webnn?.ms;
  if (webnn?.ms) $("peer-webnn-ms").textContent = `${milliseconds(webnn.ms)} ms`;
  $("peer-agree").textContent = isSame
    ? `Both say ${spoken(labels.our)}.`
    : `They disagree: SlimViT says ${spoken(labels.our)}, transformers.js says ${spoken(labels.their)}.`;
  $("peer-agree").classList.toggle("error", !isSame);
  $("peer-how").textContent =
    `Medians of ${ROUNDS} rounds in turn after ${WARM_UP} to warm up, from the picture's file to its label. SlimViT: deit-tiny-slim, ` +
    `int8, engine ${info.engine}, ${counted(info.threads, "thread")}. ` +
    `transformers.js ${PEER.version}: ${PEER.model}, f32, WASM, its own choice of threads.` +
    (webnn?.fault ? ` WebNN did not open: ${webnn.fault}` : "");
  $("peer-result").hidden = false;
}

/** "giant panda, panda, coon bear" is what ImageNet's full labels look like; ours have the first name. */
const names = (label) => label.split(",").map((name) => name.trim().toLowerCase());

function code() {
  return `import { pipeline } from "${PEER.address}";

const them = await pipeline("image-classification", "${PEER.model}", { device: "wasm", dtype: "${PEER.dtype}" });
const us = await SlimViT.load(model, { dtype: "int8" });
for (const run of [() => them(url), () => us.classify(url)]) {
  await run(); // the first run warms up
  const start = performance.now();
  await run();
  console.log(performance.now() - start);
}`;
}

function say(text) {
  $("peer-status").textContent = text;
}
