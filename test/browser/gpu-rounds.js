// In a worker: loads, runs and disposes of a model again and again, and answers on the BroadcastChannel "rounds" with what
// is alive on the GPU while a model is loaded and after each round.

import { createHost } from "/dist/worker.js";
import { alive } from "./devices.js";

const channel = new BroadcastChannel("rounds");

/** The engines' files lie beside worker.js. */
const locate = async (name) => new URL(name.replace("slimvit/", "/dist/"), location.href).href;

channel.onmessage = async ({ data: { request, image, rounds } }) => {
  try {
    const loaded = [];
    const left = [];
    for (let round = 0; round < rounds; round++) {
      const host = createHost();
      await host.load(0, request, undefined, undefined, locate);
      const { data, width, height } = image;
      await host.run(1, { kind: "pixels", image: { data: data.slice(), width, height } }, {});
      loaded.push({ ...alive });
      host.dispose();
      const end = performance.now() + 10_000; // the engine ends after the call
      while (alive.devices > 0 && performance.now() < end) await new Promise((resolve) => setTimeout(resolve, 5));
      left.push({ ...alive });
      channel.postMessage({ round: round + 1 });
    }
    channel.postMessage({ loaded, left });
  } catch (error) {
    channel.postMessage({ error: String(error.stack ?? error) });
  }
};
channel.postMessage({ ready: true });
