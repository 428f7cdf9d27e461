/** A taught model → the files of a model folder. */
import { SlimViTError } from "../errors.ts";
import type { Manifest, Model, SelfTest, Tensors, WeightsFile } from "../format/model.ts";
import { selfTestOf } from "../format/variants.ts";
import { manifestJson, selfTestPixels, writeWeights } from "../format/write.ts";
import type { SaveOptions, TaughtModel } from "../protocol.ts";
import { headLogits } from "../reference/scores.ts";
import { TAUGHT_FILE, writeTaught } from "./file.ts";
import { type TaughtRecord, taughtManifest, withHead } from "./folder.ts";
import type { TeachHost } from "./host.ts";

/** Digits of the self-test's numbers, as in all model folders. */
const SELF_TEST_DIGITS = 6;

/** @throws SlimViTError `integrity` where the model's files are no longer those that were loaded */
export async function saveTaught(
  { head, info, taught }: TaughtModel,
  { name, embeddings = true }: SaveOptions,
  host: TeachHost,
): Promise<Record<string, Blob>> {
  const files: Record<string, Blob> = {};
  const record: TaughtRecord = { ...info };
  if (embeddings) {
    const bytes = writeTaught(taught);
    files[TAUGHT_FILE] = blobOf(bytes);
    record.embeddings = { file: TAUGHT_FILE, sha256: await host.digest(bytes) };
  }
  const model = await reload(host);
  const { dtype } = model;
  const step = { command: "teach", program: "SlimViT.teach", pictures: info.n, classes: head.labels.length };
  const manifest: Manifest = {
    ...taughtManifest(model.manifest, head, record, step),
    name: name ?? `${host.manifest.name.replace(/-taught$/, "")}-taught`,
  };
  const tensors: Tensors = withHead(model, head);
  const bytes = writeWeights(tensors);
  const packed = dtype === "int8" ? await deflated(bytes) : undefined;
  const file = `model.${dtype}.safetensors${packed ? ".zz" : ""}`;
  files[file] = packed ?? blobOf(bytes);
  manifest.weights = [
    {
      dtype,
      file,
      bytes: files[file].size,
      ...(packed && { unpackedBytes: bytes.length }),
      sha256: await host.digest(bytes),
      ...ofBackbone(model.manifest.weights.find((entry) => entry.dtype === dtype)),
    },
  ];
  manifest.variants[0].selfTest = { [dtype]: await selfTest(manifest, head, host) };
  const text = `${JSON.stringify(manifestJson(manifest))}\n`;
  return { "slimvit.json": blobOf(new TextEncoder().encode(text)), ...files };
}

/**
 * The engine has packed the weights for itself, so they are read once more.
 *
 * @throws SlimViTError `integrity` for other weights
 */
async function reload({ manifest, info, request, links, loadModel, signal }: TeachHost): Promise<Model> {
  const { dtype, variant } = info;
  const { model } = await loadModel({ ...request, dtype, variant }, { ...links, onProgress: undefined, signal });
  const hashIn = ({ weights }: Manifest) => weights.find((entry) => entry.dtype === dtype)?.sha256;
  if (hashIn(manifest) === hashIn(model.manifest)) return model;
  const fault = "has been replaced by other weights since it was loaded. Load it again, and teach that.";
  throw new SlimViTError("integrity", `${manifest.name} ${fault}`);
}

/** Computes the self-test by the running engine, which has itself passed the self-test of the original model. */
async function selfTest(manifest: Manifest, head: TaughtModel["head"], host: TeachHost): Promise<SelfTest> {
  const { dtype } = manifest.weights[0];
  const seed = selfTestOf(host.manifest, dtype)?.seed ?? 1;
  const { features } = await host.run(selfTestPixels(manifest, seed));
  const logits = Array.from(headLogits(head, features), (v) => Number(v.toPrecision(SELF_TEST_DIGITS)));
  if (!logits.every(Number.isFinite))
    throw new SlimViTError("unsupported", `${manifest.name} gives logits that are not finite; teach it again.`);
  return { seed, logits };
}

/** Drops the ranges of the head, because the new head is in floats. */
function ofBackbone({ activations }: Partial<WeightsFile> = {}): Pick<WeightsFile, "activations"> {
  if (!activations) return {};
  return { activations: Object.fromEntries(Object.entries(activations).filter(([key]) => !key.startsWith("head"))) };
}

/** @returns undefined where the browser cannot */
async function deflated(bytes: Uint8Array): Promise<Blob | undefined> {
  if (typeof CompressionStream === "undefined") return undefined;
  const stream = blobOf(bytes).stream().pipeThrough(new CompressionStream("deflate"));
  return new Response(stream).blob();
}

function blobOf(bytes: Uint8Array): Blob {
  return new Blob([bytes as Uint8Array<ArrayBuffer>]);
}
