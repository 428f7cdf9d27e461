// Serves the page when there is no network. With one, the network's answer wins: nobody sees an old page.
const CACHE = "slimvit-demo";
/** Weights are not cached here, because the package keeps them by their sha256. */
const WEIGHTS = /\.safetensors(\.zz)?$/;

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

/** The page sends a list of the files it needs. The answer says whether all of them are kept. */
self.addEventListener("message", (event) => {
  const keep = async () => {
    const cache = await caches.open(CACHE);
    await cache.addAll(event.data);
  };
  event.waitUntil(
    keep().then(
      () => event.ports[0].postMessage(true),
      () => event.ports[0].postMessage(false), // no quota, perhaps
    ),
  );
});

self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method !== "GET" || new URL(url).origin !== location.origin || WEIGHTS.test(url)) return;
  event.respondWith(answer(event.request));
});

async function answer(request) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(request, response.clone()).catch(() => {}); // no quota
    return response;
  } catch (error) {
    const kept = await cache.match(request, { ignoreSearch: true });
    if (kept) return kept;
    throw error;
  }
}
