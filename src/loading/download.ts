/** One file over the network: sizes held to what was promised, a broken download taken up again where it broke. */
import { messageOf, SlimViTError, throwIfAborted } from "../errors.ts";

export const MANIFEST = "slimvit.json";

export interface ReadOptions {
  /** how messages call it, where not by its URL */
  name?: string;
  /** the size the file must have … */
  exactly?: number;
  /** … or may have at most */
  limit?: number;
  /** what messages say was expected, where it is no model */
  expected?: string;
  onBytes?: (count: number) => void;
}

/** A server that sends nothing for so long has gone. */
const STALL_MS = 30_000;
/** Tries in a row without a new byte before a broken download is given up, … */
const TRIES = 3;
/** … and the wait before the first of them, which doubles. */
const WAIT_MS = 250;

/**
 * Only files of a known size are resumed: their sha256 tells whether the pieces belong together.
 *
 * @throws SlimViTError `network`, `integrity`, `bad-model` or (a picture) `bad-input` for a file that is too long, `aborted`, `out-of-memory`
 */
export async function download(url: string, how: ReadOptions, signal?: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
  const buffer = new Collector(how.name ?? url, how);
  let fault: unknown;
  for (let tries = 0; ; tries++) {
    const from = buffer.length;
    try {
      await readFrom(url, buffer, signal);
      return buffer.finish("network");
    } catch (error) {
      throwIfAborted(signal);
      if (buffer.length > from) {
        tries = 0;
        fault = undefined;
      }
      fault ??= error; // the first says what happened, the others that it lasts
      const isOurs = error instanceof SlimViTError && error.code !== "network";
      if (isOurs || !buffer.length || how.exactly === undefined || tries >= TRIES) throw told(buffer, fault);
      await new Promise((resolve) => setTimeout(resolve, WAIT_MS * 2 ** tries));
      throwIfAborted(signal);
    }
  }
}

async function readFrom(url: string, buffer: Collector, signal?: AbortSignal): Promise<void> {
  const from = buffer.length;
  const line = new AbortController();
  const hangUp = () => line.abort();
  let isStalled = false;
  const inTime = async <T>(step: Promise<T>): Promise<T> => {
    const timer = setTimeout(() => {
      isStalled = true;
      hangUp();
    }, STALL_MS);
    return step.finally(() => clearTimeout(timer));
  };
  signal?.addEventListener("abort", hangUp);
  try {
    throwIfAborted(signal);
    const headers: HeadersInit = from ? { Range: `bytes=${from}-` } : {};
    const { ok, status, body } = await inTime(fetch(url, { signal: line.signal, headers }));
    if (!ok || !body) {
      const fault = `the server answered ${status}; expected ${buffer.how.expected ?? "a file of a published model"}.`;
      throw new SlimViTError("network", `${buffer.name}: ${fault}`);
    }
    let skip = status === 206 ? 0 : from; // a server without ranges starts again
    const reader = body.getReader();
    for (;;) {
      const { done, value } = await inTime(reader.read());
      if (done) return;
      if (skip < value.length) buffer.add(value.subarray(skip));
      skip = Math.max(0, skip - value.length);
    }
  } catch (error) {
    throw isStalled ? new Error(`nothing came for ${STALL_MS / 1000} s`) : error;
  } finally {
    signal?.removeEventListener("abort", hangUp);
    hangUp(); // a file that is refused is not read to its end
  }
}

function told({ name, length }: Collector, error: unknown): unknown {
  if (error instanceof SlimViTError) return error;
  const fault = length
    ? `broke off after ${length} bytes (${messageOf(error)}).`
    : `could not be fetched (${messageOf(error)}). Is it online, and does it allow this page (CORS)?`;
  return new SlimViTError("network", `${name}: ${fault}`, { cause: error });
}

/** Taken on a manifest's word alone; beyond it memory grows with the bytes that have come. */
const TRUSTED_BYTES = 2 ** 26;

/** Joins the pieces of a file and holds them to the size that was promised. */
export class Collector {
  length = 0;
  private bytes = new Uint8Array(0);

  constructor(
    readonly name: string,
    readonly how: ReadOptions,
  ) {
    this.grow(Math.min(how.exactly ?? 2 ** 16, TRUSTED_BYTES));
  }

  add(piece: Uint8Array): void {
    const { exactly, limit = Number.POSITIVE_INFINITY, expected, onBytes } = this.how;
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

  /** @param code of a file that is too short */
  finish(code: "network" | "integrity"): Uint8Array<ArrayBuffer> {
    const { exactly } = this.how;
    if (exactly !== undefined && this.length < exactly) {
      throw new SlimViTError(code, `${this.name}: ended after ${this.length} of the ${exactly} bytes in ${MANIFEST}.`);
    }
    return this.bytes.subarray(0, this.length);
  }
}
