/**
 * The entry of dist/teach.js, which the worker loads when a model is first taught. It fits heads, and saves and reads
 * taught models.
 */
import { messageOf, SlimViTError, throwIfAborted } from "../errors.ts";
import { countMacs, countParams, featureDim, type Manifest } from "../format/model.ts";
import type { Taught, TaughtModel, TeachRequest, TeachResult } from "../protocol.ts";
import { readTaught, TAUGHT_FILE } from "./file.ts";
import type { TaughtRecord } from "./folder.ts";
import type { TeachHost } from "./host.ts";
import { saveTaught } from "./save.ts";
import { teachHead } from "./teach.ts";

export { TAUGHT_FILE, writeTaught } from "./file.ts";
export { headTensors, type TaughtRecord, taughtManifest } from "./folder.ts";
export { teachHead } from "./teach.ts";

/** The largest file of embeddings. It has room for 10,000 pictures with 4,096 features. */
const MAX_TAUGHT_BYTES = 2 ** 28;
/** Milliseconds between two pauses. The worker answers no call in between. */
const PAUSE_MS = 15;

export async function answer(request: TeachRequest, host: TeachHost): Promise<TeachResult> {
  if (request.want === "fit") return { model: await fitModel(request.taught, request.falseRejection, host) };
  if (request.want === "recall") return { taught: await recall(host) };
  return { files: await saveTaught(request.model, request.options, host) };
}

async function fitModel(taught: Taught, falseRejection: number | undefined, host: TeachHost): Promise<TaughtModel> {
  const { manifest, onProgress, nextMacrotask, signal } = host;
  let last = performance.now();
  const rest = async () => {
    await nextMacrotask();
    throwIfAborted(signal);
    last = performance.now();
  };
  const pause = () => (performance.now() - last < PAUSE_MS ? undefined : rest());
  const fitted = await teachHead(taught, featureDim(manifest), { falseRejection, pause, onProgress });
  const classes = taught.names.length;
  const network: Manifest = { ...manifest, head: { scores: "softmax" } };
  return { ...fitted, taught, params: countParams(network, classes), macs: countMacs(network, classes) };
}

/** @throws SlimViTError `unsupported` for a model that was saved without its embeddings, `bad-model`, `integrity` */
async function recall({ manifest, request, openFolder, digest, signal }: TeachHost): Promise<Taught> {
  const { embeddings } = (manifest.provenance.taught ?? {}) as Partial<TaughtRecord>;
  if (typeof embeddings?.sha256 !== "string") {
    throw new SlimViTError(
      "unsupported",
      `${manifest.name} was saved without the embeddings of its pictures, so it cannot be taught more. ` +
        "Teach the model that it was made from, with all pictures.",
    );
  }
  const names = manifest.labels.map(({ label }) => label);
  let bytes: Uint8Array;
  try {
    bytes = await (await openFolder(request.source, signal)).read(TAUGHT_FILE, { limit: MAX_TAUGHT_BYTES });
  } catch (error) {
    throwIfAborted(signal);
    const fault = `${manifest.name} names a ${TAUGHT_FILE} that cannot be read: ${messageOf(error)}`;
    throw new SlimViTError("bad-model", fault, { cause: error });
  }
  if ((await digest(bytes)) !== embeddings.sha256)
    throw new SlimViTError("integrity", `${TAUGHT_FILE}: its sha256 is not the one in slimvit.json.`);
  return readTaught(bytes, names, featureDim(manifest), TAUGHT_FILE);
}
