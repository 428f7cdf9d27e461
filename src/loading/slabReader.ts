/** Reads the slabs of a weights file, each from the cache or the network. Part of dist/engine-family.js. */
import { throwIfAborted } from "../errors.ts";
import { readFamily } from "../format/family.ts";
import type { Manifest, Model, Slab, WeightsFile } from "../format/model.ts";
import { checkSlabs } from "../format/slabFields.ts";
import { slabsOf, withVariant } from "../format/variants.ts";
import { keep, unpackChecked, type WeightsLoad } from "./checkedWeights.ts";
import { MANIFEST, type ReadOptions } from "./collector.ts";
import { downloadRange } from "./download.ts";
import { inTurn } from "./inTurn.ts";
import type { VariantLoader } from "./loadModel.ts";
import { reportProgress } from "./progress.ts";
import { readKept, type Weights } from "./weightsStore.ts";

/** @param loadedBytes of the file, from its begin on */
type OnBytes = (loadedBytes: number) => void;

/** Slabs as they are unpacked. */
type Held = (Promise<Weights | undefined> | undefined)[];

/** A weights file of several variants. One that is a single piece counts as one slab. */
export class SlabReader implements VariantLoader {
  private readonly slabs: readonly Slab[];
  private held: Held = [];
  /** the whole file, where a server without parts sent it in answer to a request for one */
  private whole: Uint8Array | undefined;

  constructor(
    private readonly manifest: Manifest,
    private readonly weights: WeightsFile,
    private readonly load: WeightsLoad,
  ) {
    checkSlabs(manifest, load.folder.nameOf(MANIFEST));
    this.slabs = weights.slabs ?? [weights];
  }

  /** @throws SlimViTError `network`, `integrity`, `aborted`, `out-of-memory`, `bad-option`, `bad-model` */
  async loadVariant(name: string): Promise<Model> {
    const { load, weights } = this;
    const { file, dtype } = weights;
    const manifest = withVariant(this.manifest, name);
    const count = slabsOf(manifest, weights)?.length ?? 1;
    const totalBytes = this.bytesOf(count);
    const { slabs, cached } = await this.first(count, (loadedBytes) => {
      if (loadedBytes < totalBytes) void reportProgress(load, { file, loadedBytes, totalBytes, cached: false });
    });
    await reportProgress(load, { file, loadedBytes: totalBytes, totalBytes, cached });
    return readFamily(manifest, dtype, slabs, load.folder.nameOf(file));
  }

  /** Bytes of the first slabs in the file. */
  private bytesOf(count: number): number {
    return this.slabs.slice(0, count).reduce((sum, { bytes }) => sum + bytes, 0);
  }

  private lookUp(count: number, held: Held): void {
    for (let i = 0; i < count; i++) held[i] ??= readKept(this.load.store, this.slabs[i].sha256);
  }

  /**
   * The first slabs, and whether all of them were in the store. Workers and tabs that want the same download it once.
   *
   * @throws SlimViTError `network`, `integrity`, `aborted`, `out-of-memory`
   */
  private async first(count: number, onBytes: OnBytes): Promise<{ slabs: Uint8Array[]; cached: boolean }> {
    const { held } = this; // stays, whenever the others are let go
    this.lookUp(count, held);
    const missing = await missingOf(held, count);
    if (missing) {
      const { store, signal } = this.load;
      const work = async () => {
        if (store) for (let i = missing[0]; i < missing[1]; i++) held[i] = readKept(store, this.slabs[i].sha256);
        const left = await missingOf(held, count);
        if (left) await this.download(left[0], left[1], held, onBytes);
      };
      await (store ? inTurn(`slimvit-${this.slabs[missing[0]].sha256}`, work, signal) : work());
    }
    throwIfAborted(this.load.signal);
    const all = (await Promise.all(held.slice(0, count))) as Weights[];
    return { slabs: all.map(({ bytes }) => bytes), cached: all.every(({ cached }) => cached) };
  }

  /** Lets the bytes go. They are read again when they are asked for. */
  release(): void {
    this.held = [];
    this.whole = undefined;
  }

  private async download(from: number, to: number, held: Held, onBytes: OnBytes): Promise<void> {
    const { folder } = this.load;
    const { file, bytes } = this.weights;
    const [start, end] = [this.bytesOf(from), this.bytesOf(to)];
    const report = (count: number) => {
      if (count < end - start) onBytes(start + count); // the last report comes when they are checked
    };
    const isPart = start > 0 || end < bytes;
    const before = this.whole;
    this.whole = undefined; // stays where its slabs pass their check; else it is fetched again
    const part = !before && isPart && (await this.readRange(start, { exactly: end - start, onBytes: report }));
    if (part) {
      for (let i = from; i < to; i++) await this.hold(i, held, part, start);
      return;
    }
    const onWhole = (count: number) => void (count < end && onBytes(count));
    const whole = before ?? (await folder.read(file, { exactly: bytes, onBytes: onWhole }));
    for (let i = from; i < to; i++) await this.hold(i, held, whole, 0);
    if (end < bytes) this.whole = whole;
  }

  /**
   * @returns undefined where only whole files are served, and for a folder on a disk, where reading a file whole is faster
   * than opening it twice
   */
  private async readRange(from: number, options: ReadOptions): Promise<Uint8Array | undefined> {
    const { folder, signal } = this.load;
    const url = folder.nameOf(this.weights.file);
    return folder.isRemote && URL.canParse(url) ? downloadRange(url, from, options, signal) : undefined;
  }

  /** @param bytes of the file, from `start` on */
  private async hold(i: number, held: Held, bytes: Uint8Array, start: number): Promise<void> {
    const { folder, signal } = this.load;
    const { file } = this.weights;
    const at = this.bytesOf(i) - start;
    const slab = this.slabs[i];
    const name = folder.nameOf(file) + (this.slabs.length > 1 ? `, slab ${i + 1}` : "");
    const unpacked = await unpackChecked(bytes.subarray(at, at + slab.bytes), { ...slab, file }, name, signal);
    held[i] = Promise.resolve({ bytes: unpacked, cached: false });
    await keep(this.load, slab.sha256, unpacked);
  }
}

/** @returns the first slab that is not there and the one after the last, or undefined */
async function missingOf(held: Held, count: number): Promise<[from: number, to: number] | undefined> {
  const there = await Promise.all(held.slice(0, count));
  const from = there.findIndex((slab) => !slab);
  return from < 0 ? undefined : [from, there.findLastIndex((slab) => !slab) + 1];
}
