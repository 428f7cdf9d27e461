/** Parts of the package that are separate files, loaded when they are needed. */
import { messageOf, SlimViTError } from "../errors.ts";

/** @throws SlimViTError `unsupported` in a service worker, which loads no code later; `network` where the file is not served */
export function part<T>(loading: Promise<T>): Promise<T> {
  return loading.catch((error) => {
    const isServiceWorker = "ServiceWorkerGlobalScope" in globalThis;
    const [code, advice] = isServiceWorker
      ? ([
          "unsupported",
          'A service worker loads no code later. Bundle its script into one file, or pass host: createHost (of "slimvit/worker.js"): ' +
            "load, classify and embed then work.",
        ] as const)
      : (["network", "Serve all files of the package, and reload the page."] as const);
    throw new SlimViTError(code, `A file of the package did not load (${messageOf(error)}). ${advice}`, {
      cause: error,
    });
  });
}
