/** The bytes of weights, checked against slimvit.json and stored for the next visit. */
import { messageOf, SlimViTError, throwIfAborted } from "../errors.ts";
import type { Slab } from "../format/model.ts";
import type { Progress, WeightsStore } from "../protocol.ts";
import { collect, MANIFEST } from "./collector.ts";
import { digest } from "./digest.ts";
import type { Folder } from "./folders.ts";
import { inflating } from "./inflate.ts";

/** The parts of a load that reading weights needs. */
export interface WeightsLoad {
  folder: Folder;
  store?: WeightsStore;
  notes: string[];
  signal?: AbortSignal;
  onProgress?: (progress: Progress) => unknown;
}

/** @throws SlimViTError `integrity` for bytes whose hash is not the manifest's */
export async function unpackChecked(
  packed: Uint8Array,
  { file, unpackedBytes, sha256 }: Slab & { file: string },
  name: string,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  const bytes = file.endsWith(".zz") ? await unpack(packed, name, unpackedBytes) : packed;
  const found = await digest(bytes);
  throwIfAborted(signal);
  if (found === sha256) return bytes;
  throw new SlimViTError(
    "integrity",
    `${name}: its sha256 is ${found}; ${MANIFEST} promises ${sha256}. ` +
      "It is damaged or of another version: publish both again.",
  );
}

/** Stores the weights for the next visit. */
export async function keep({ store, notes }: WeightsLoad, sha256: string, bytes: Uint8Array): Promise<void> {
  await store?.put(sha256, bytes).catch((error) => {
    notes.push(`The weights are not kept for the next visit (${messageOf(error)}).`); // no quota, perhaps
  });
}

/** Unpacks zlib data to the size that the manifest states. */
async function unpack(bytes: Uint8Array, name: string, exactly?: number): Promise<Uint8Array> {
  try {
    return await collect(inflating(bytes, "deflate"), name, { exactly });
  } catch (error) {
    if (error instanceof SlimViTError) throw error;
    throw new SlimViTError("integrity", `${name}: cannot be unpacked (${messageOf(error)}).`, { cause: error });
  }
}
