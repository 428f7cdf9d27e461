// Keeps the page for visits without a network. The weights are kept by the package.
import { SAMPLES } from "./pictures.js";
import { TEACH_SAMPLES } from "./teach.js";
import { $, WEIGHTS } from "./words.js";

/** Scripts of the package that are loaded with the first call that needs them. */
const ON_DEMAND = ["worker", "advice", "batch-of", "video-frames", "teaching", "teach", "engine-family"];

/**
 * Keeps the files for offline use. Call it once the models are loaded: the page needs the files that were fetched until
 * then.
 */
export async function keepForOffline() {
  if (!navigator.serviceWorker) return; // browsers offer it on https only
  try {
    await navigator.serviceWorker.register("sw.js");
    const { active } = await navigator.serviceWorker.ready;
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = ({ data }) => {
      $("offline").hidden = !data;
      port1.close();
    };
    active.postMessage(needed(), [port2]);
  } catch {
    // The page works without it.
  }
}

function needed() {
  const fetched = performance.getEntriesByType("resource").map(({ name }) => name);
  const scripts = ON_DEMAND.map((name) => `lib/${name}.js`);
  const urls = ["./", ...scripts, ...SAMPLES, ...TEACH_SAMPLES, ...fetched].map(
    (url) => new URL(url, document.baseURI),
  );
  const ours = urls.filter(({ href, origin }) => origin === location.origin && !WEIGHTS.test(href));
  return [...new Set(ours.map(({ href }) => href))];
}
