/** Pictures preprocessed for networks of several picture sizes, cached while there is memory. */
import { freemem } from "node:os";
import { messageOf } from "../../src/errors.ts";
import type { Model } from "../../src/format/model.ts";
import { evalPixels, type Picture } from "../data/data.ts";
import { say } from "../shared/terminal.ts";

/** Preprocessed pictures are kept while they take less memory than this, or a quarter of what is free. */
const CACHE_BYTES = 1.2e9;
const CACHE_SHARE = 0.25;

/** Pictures as the network takes them, by picture size; the sizes that were not used lately are dropped first. */
export class PixelCache {
  private readonly kept = new Map<string, Float32Array[]>();
  private readonly sets = new Map<Picture[], number>();
  private readonly broken = new Set<Picture>();
  private bytes = 0;

  /** @param most bytes that are kept */
  constructor(private readonly most = Math.min(CACHE_BYTES, CACHE_SHARE * freemem())) {}

  private async of(pictures: Picture[], manifest: Model["manifest"]): Promise<Float32Array[]> {
    if (!this.sets.has(pictures)) this.sets.set(pictures, this.sets.size);
    const key = `${this.sets.get(pictures)} ${manifest.imageSize}`;
    const known = this.kept.get(key);
    this.kept.delete(key);
    const pixels = known ?? (await this.decode(pictures, manifest));
    if (!known) this.bytes += sizeOf(pixels);
    this.kept.set(key, pixels);
    for (const [old, some] of this.kept) {
      if (this.bytes <= this.most || old === key) break;
      this.kept.delete(old);
      this.bytes -= sizeOf(some);
    }
    return pixels;
  }

  /**
   * Gives the pictures one after the other. A set that would take most of the cache is decoded on the way and not kept.
   */
  async *each(pictures: Picture[], manifest: Model["manifest"]): AsyncGenerator<Float32Array> {
    const [rows, columns] = manifest.imageSize;
    if (pictures.length * rows * columns * BYTES_A_PIXEL <= this.most / 2)
      return yield* await this.of(pictures, manifest);
    const part = (first: number) => this.decode(pictures.slice(first, first + STREAMED_AT_ONCE), manifest);
    let next = part(0);
    for (let first = 0; first < pictures.length; first += STREAMED_AT_ONCE) {
      const pixels = await next;
      // Decoding has threads of its own, so it goes on while the engine works on what is yielded. It never rejects.
      next = part(first + STREAMED_AT_ONCE);
      yield* pixels;
    }
  }

  /** The pictures that can be read, in the order of `each`; known after `each` has run. */
  readable(pictures: Picture[]): Picture[] {
    return pictures.filter((picture) => !this.broken.has(picture));
  }

  private async decode(pictures: Picture[], { preprocess }: Model["manifest"]): Promise<Float32Array[]> {
    const out: Float32Array[] = [];
    for (let first = 0; first < pictures.length; first += AT_ONCE) {
      const some = pictures.slice(first, first + AT_ONCE).filter((picture) => !this.broken.has(picture));
      const decoded = await Promise.all(
        some.map((picture) =>
          evalPixels(picture, preprocess).catch((error) => {
            this.broken.add(picture);
            say(`skipped: ${messageOf(error)}`);
          }),
        ),
      );
      out.push(...decoded.filter((pixels) => pixels !== undefined));
    }
    return out;
  }
}

/** Pictures decoded side by side. */
const AT_ONCE = 8;
const STREAMED_AT_ONCE = 64;
/** Three channels in f32. */
const BYTES_A_PIXEL = 12;

const sizeOf = (pixels: Float32Array[]) => pixels.reduce((sum, { byteLength }) => sum + byteLength, 0);
