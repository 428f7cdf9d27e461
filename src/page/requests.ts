/** The caller's options as plain data that can be sent to the worker. */
import { SlimViTError } from "../errors.ts";
import type {
  ClassifyOptions,
  LoadOptions,
  LoadRequest,
  ModelSource,
  UseRequest,
  VariantRequest,
} from "../protocol.ts";
import { absoluteUrl, resolveSource } from "./addresses.ts";

export async function loadRequest(source: ModelSource, options: LoadOptions): Promise<LoadRequest> {
  const {
    engine = "auto",
    dtype = "auto",
    threads = "auto",
    cache = true,
    variant,
    latencyMs,
    engineUrls,
    engines,
    webnn,
  } = options;
  const urls = engineUrls && Object.entries(engineUrls).map(([name, url]) => [name, absoluteUrl(url, "bad-option")]);
  return {
    source: await resolveSource(source, options.npmUrl),
    engine,
    dtype,
    threads,
    cache: cache === true,
    ...(variant !== undefined && { variant }),
    ...(latencyMs !== undefined && { latencyMs: checkLatency(latencyMs) }),
    ...(engines && { packages: engines.flatMap(({ packages }) => Object.keys(packages)) }),
    ...(urls && { engineUrls: Object.fromEntries(urls) }),
    ...(webnn && { webnn: { ...webnn } }),
  };
}

export function useRequest(wanted: VariantRequest): UseRequest {
  return typeof wanted === "string" ? { variant: wanted } : { latencyMs: checkLatency(wanted?.latencyMs) };
}

function checkLatency(latencyMs: number): number {
  if (typeof latencyMs === "number" && latencyMs > 0) return latencyMs;
  throw new SlimViTError("bad-option", `latencyMs is ${String(latencyMs)}; expected milliseconds above 0.`);
}

/** Proxies, which the frameworks make of lists and objects, do not cross to a worker. */
export function plainCopy(options: Omit<ClassifyOptions, "signal">): Omit<ClassifyOptions, "signal"> {
  const { allow, deny, region, classes } = options;
  const list = (names?: readonly string[]) => (Array.isArray(names) ? [...names] : names);
  const vectors = classes && Object.entries(classes).map(([name, vector]) => [name, Float32Array.from(vector ?? [])]);
  return {
    ...options,
    allow: list(allow),
    deny: list(deny),
    region: region && { ...region },
    classes: vectors && Object.fromEntries(vectors),
  };
}
