/** Where the worker finds what it may need later: files that are not in worker.js, and packages that the app passes. */
import { SlimViTError } from "../errors.ts";
import type { EnginePackage } from "../protocol.ts";
import { noFile } from "./advice.ts";
import { isAddress } from "./scripts.ts";

interface File {
  /** for bundlers that write ES modules, which make a file of its own of what is imported dynamically */
  chunk(): Promise<{ url: string | undefined }>;
  /** for webpack and similar bundlers, which copy files that are named in this form */
  copy(): URL;
}

const FILES: Record<string, File> = {
  "slimvit/engine-family.js": {
    chunk: () => import(/* webpackIgnore: true */ "./engine-family.js"),
    copy: () => new URL("./engine-family.js", import.meta.url),
  },
  "slimvit/engine-onnx.js": {
    chunk: () => import(/* webpackIgnore: true */ "./engine-onnx.js"),
    copy: () => new URL("./engine-onnx.js", import.meta.url),
  },
  "slimvit/engine-reference.js": {
    chunk: () => import(/* webpackIgnore: true */ "./engine-reference.js"),
    copy: () => new URL("./engine-reference.js", import.meta.url),
  },
  "slimvit/engine-tfjs.js": {
    chunk: () => import(/* webpackIgnore: true */ "./engine-tfjs.js"),
    copy: () => new URL("./engine-tfjs.js", import.meta.url),
  },
  "slimvit/engine-webgpu.js": {
    chunk: () => import(/* webpackIgnore: true */ "./engine-webgpu.js"),
    copy: () => new URL("./engine-webgpu.js", import.meta.url),
  },
  "slimvit/engine-webnn.js": {
    chunk: () => import(/* webpackIgnore: true */ "./engine-webnn.js"),
    copy: () => new URL("./engine-webnn.js", import.meta.url),
  },
  "slimvit/teach.js": {
    chunk: () => import(/* webpackIgnore: true */ "./teach.js"),
    copy: () => new URL("./teach.js", import.meta.url),
  },
};

/**
 * @param runsHere whether the model runs in this thread. Where code cannot be loaded later, as in a service worker, a script of
 *   one file has the engines' files in itself.
 * @returns absolute address of a script that brings a package of the app's, or of a file of ours; here that file's exports
 */
export async function locate(
  name: string,
  engines: readonly EnginePackage[],
  runsHere: boolean,
): Promise<string | object> {
  for (const { packages } of engines) if (Object.hasOwn(packages, name)) return packages[name]();
  const file = FILES[name];
  if (runsHere) return file.chunk();
  if (import.meta.url && !isAddress(import.meta.url) && typeof location !== "undefined") return file.copy().href;
  const { url } = await file.chunk();
  if (url && url !== import.meta.url) return url;
  throw new SlimViTError("unsupported", noFile(name));
}
