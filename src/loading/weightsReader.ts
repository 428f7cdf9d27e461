/** A weights file from the store or the network, checked. */
import { messageOf, SlimViTError, throwIfAborted } from "../errors.ts";
import type { Slab, WeightsFile } from "../format/model.ts";
import type { WeightsStore } from "../protocol.ts";
import { collect, MANIFEST } from "./collector.ts";
import { digest } from "./digest.ts";
import type { Folder } from "./folders.ts";
import { inflating } from "./inflate.ts";
import { inTurn } from "./inTurn.ts";
import { readKept, type Weights } from "./weightsStore.ts";

/** What a reader needs of a load. */
export interface WeightsLoad {
  folder: Folder;
  store?: WeightsStore;
  notes: string[];
  signal?: AbortSignal;
}

/** @param loadedBytes of the file, from its begin on */
export type OnBytes = (loadedBytes: number) => void;

/** Reads a file by its slabs; one that is a single piece counts as one. */
export interface WeightsReader {
  /** Bytes of the first slabs in the file. */
  bytesOf(count: number): number;
  /** Begins to look for the first slabs in the store. */
  lookUp(count: number): void;
  /**
   * The first slabs, and whether all of them were in the store. Workers and tabs that want the same download it once.
   *
   * @throws SlimViTError `network`, `integrity`, `aborted`, `out-of-memory`
   */
  first(count: number, onBytes: OnBytes): Promise<{ slabs: Uint8Array[]; cached: boolean }>;
  /** Lets the bytes go. They are read again when they are asked for. */
  release(): void;
}

export class WholeReader implements WeightsReader {
  private kept: Promise<Weights | undefined> | undefined;

  constructor(
    private readonly weights: WeightsFile,
    private readonly load: WeightsLoad,
  ) {}

  bytesOf(): number {
    return this.weights.bytes;
  }

  lookUp(): void {
    this.kept ??= readKept(this.load.store, this.weights.sha256);
  }

  async first(_: number, onBytes: OnBytes): Promise<{ slabs: Uint8Array[]; cached: boolean }> {
    const { store, signal } = this.load;
    const { sha256 } = this.weights;
    const read = async () => (await readKept(store, sha256)) ?? this.download(onBytes);
    const { bytes, cached } = (await this.kept) ?? (await (store ? inTurn(`slimvit-${sha256}`, read, signal) : read()));
    throwIfAborted(signal);
    return { slabs: [bytes], cached };
  }

  release(): void {
    this.kept = undefined;
  }

  private async download(onBytes: OnBytes): Promise<Weights> {
    const { file, bytes: exactly, sha256 } = this.weights;
    const { folder, store, notes, signal } = this.load;
    const packed = await folder.read(file, { exactly, onBytes });
    const bytes = await unpackChecked(packed, this.weights, folder.nameOf(file), signal);
    await keep(store, sha256, bytes, notes);
    return { bytes, cached: false };
  }
}

/** @throws SlimViTError `integrity` for bytes that are not what was promised */
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

/** For the next visit. */
export async function keep(
  store: WeightsStore | undefined,
  sha256: string,
  bytes: Uint8Array,
  notes: string[],
): Promise<void> {
  await store?.put(sha256, bytes).catch((error) => {
    notes.push(`The weights are not kept for the next visit (${messageOf(error)}).`); // no quota, perhaps
  });
}

/** zlib → its content, of a size that was promised. */
async function unpack(bytes: Uint8Array, name: string, exactly?: number): Promise<Uint8Array> {
  try {
    return await collect(inflating(bytes, "deflate"), name, { exactly });
  } catch (error) {
    if (error instanceof SlimViTError) throw error;
    throw new SlimViTError("integrity", `${name}: cannot be unpacked (${messageOf(error)}).`, { cause: error });
  }
}
