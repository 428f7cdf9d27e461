/** Joins the pieces of a file and checks them against the expected size. */
import { messageOf, SlimViTError, throwIfAborted } from "../errors.ts";

export const MANIFEST = "slimvit.json";

export interface ReadOptions {
  /** how messages call the file, if not by its URL */
  name?: string;
  /** the size the file must have … */
  exactly?: number;
  /** … or may have at most */
  limit?: number;
  /** the expectation that messages state for a file that does not belong to a model */
  expected?: string;
  onBytes?: (count: number) => void;
}

/**
 * Memory that is reserved before the first byte arrives, because a manifest states the size. Beyond it memory grows
 * with the bytes.
 */
const TRUSTED_BYTES = 2 ** 26;

/** The start of a web page; no file of a model and no picture begins so. */
const WEB_PAGE = /^\s*<(!doctype html|html)[\s>]/i;

export class Collector {
  length = 0;
  private bytes = new Uint8Array(0);

  constructor(
    readonly name: string,
    readonly options: ReadOptions,
  ) {
    this.grow(Math.min(options.exactly ?? 2 ** 16, TRUSTED_BYTES));
  }

  /** @throws SlimViTError for a file that is too long: `integrity`, `bad-model` or, of a picture, `bad-input` */
  add(piece: Uint8Array): void {
    const { exactly, limit = Number.POSITIVE_INFINITY, expected, onBytes } = this.options;
    if (this.length === 0) this.refuseWebPage(piece);
    const end = this.length + piece.length;
    if (end > (exactly ?? limit)) {
      const fault =
        exactly === undefined ? `is longer than ${limit} bytes` : `is longer than the ${exactly} bytes in ${MANIFEST}`;
      const code = expected ? "bad-input" : exactly === undefined ? "bad-model" : "integrity";
      throw new SlimViTError(code, `${this.name}: ${fault}.`);
    }
    if (end > this.bytes.length) this.grow(Math.min(Math.max(end, 2 * this.bytes.length), exactly ?? limit));
    this.bytes.set(piece, this.length);
    this.length = end;
    onBytes?.(end);
  }

  /** @param code of a file that is too short */
  finish(code: "network" | "integrity"): Uint8Array<ArrayBuffer> {
    const { exactly } = this.options;
    if (exactly !== undefined && this.length < exactly) {
      throw new SlimViTError(code, `${this.name}: ended after ${this.length} of the ${exactly} bytes in ${MANIFEST}.`);
    }
    return this.bytes.subarray(0, this.length);
  }

  private refuseWebPage(start: Uint8Array): void {
    if (!WEB_PAGE.test(new TextDecoder().decode(start.subarray(0, 200)))) return;
    const { expected } = this.options;
    throw new SlimViTError(
      expected ? "bad-input" : "bad-model",
      `${this.name}: is a web page; expected ${expected ?? "a file of a published model"}. Does the address exist, or did ` +
        "a single-page app's fallback answer for it?",
    );
  }

  private grow(size: number): void {
    let larger: Uint8Array<ArrayBuffer>;
    try {
      larger = new Uint8Array(size);
    } catch (error) {
      throw new SlimViTError("out-of-memory", `${this.name}: ${size} bytes cannot be held (${messageOf(error)}).`);
    }
    larger.set(this.bytes.subarray(0, this.length));
    this.bytes = larger;
  }
}

/** @throws SlimViTError as `Collector`, and `aborted` */
export async function collect(
  stream: ReadableStream<Uint8Array>,
  name: string,
  options: ReadOptions,
  signal?: AbortSignal,
): Promise<Uint8Array<ArrayBuffer>> {
  const collector = new Collector(name, options);
  const reader = stream.getReader();
  for (;;) {
    throwIfAborted(signal);
    const { done, value } = await reader.read();
    if (done) return collector.finish("integrity");
    collector.add(value);
  }
}
