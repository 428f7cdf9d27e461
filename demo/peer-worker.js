// transformers.js in a worker of its own, as its users run it: its pipeline with its own defaults. See peer.js.
let library;
let classifier;

const CALLS = {
  async open({ address, model, dtype }) {
    library = await import(address);
    // Without a device it would choose WebGPU in some browsers, but the comparison is on the processor.
    classifier = await library.pipeline("image-classification", model, { device: "wasm", dtype });
  },
  /** Timed from the picture's file to its label, like SlimViT. */
  async classify({ picture }) {
    const start = performance.now();
    const [best] = await classifier(await library.RawImage.fromBlob(picture), { top_k: 1 });
    return { label: best.label, ms: performance.now() - start };
  },
};

self.addEventListener("message", async ({ data: { call, ...request } }) => {
  try {
    self.postMessage({ result: await CALLS[call](request) });
  } catch (error) {
    self.postMessage({ fault: String(error?.message ?? error) });
  }
});
