/** Downloads a file. Its size is checked against the expected one, and a broken download is resumed where it broke. */
import { messageOf, SlimViTError, throwIfAborted } from "../errors.ts";
import { Collector, type ReadOptions } from "./collector.ts";

/** Milliseconds without a byte after which a server counts as gone. */
const STALL_MS = 30_000;
/** Attempts in a row without a new byte before a broken download is given up. */
const ATTEMPTS = 3;
/** The wait before the first new attempt; it doubles with each. */
const WAIT_MS = 250;

/**
 * Downloads a file. Only files of a known size are resumed: their sha256 decides whether the pieces belong together.
 *
 * @throws SlimViTError `network`; `integrity`, `bad-model` or (a picture) `bad-input` for a file that is too long or a web
 *   page; `aborted`, `out-of-memory`
 */
export async function download(
  url: string,
  options: ReadOptions,
  signal?: AbortSignal,
): Promise<Uint8Array<ArrayBuffer>> {
  return downloadFrom(url, 0, options, signal);
}

/**
 * A part of a file.
 *
 * @param from its first byte; `options.exactly` is its length
 * @returns undefined for a server that does not serve parts, or not to this page
 * @throws SlimViTError as `download`
 */
export async function downloadRange(
  url: string,
  from: number,
  options: ReadOptions & { exactly?: number },
  signal?: AbortSignal,
): Promise<Uint8Array<ArrayBuffer> | undefined> {
  let hasBegun = false;
  const onBytes = (count: number) => {
    hasBegun = true;
    options.onBytes?.(count);
  };
  try {
    return await downloadFrom(url, from, { ...options, onBytes }, signal, true);
  } catch (error) {
    throwIfAborted(signal);
    // The part was refused before its first byte. The whole file may be served; if not, its download reports why.
    if (!hasBegun && error instanceof SlimViTError && error.code !== "out-of-memory") return undefined;
    throw error;
  }
}

async function downloadFrom(
  url: string,
  first: number,
  options: ReadOptions,
  signal?: AbortSignal,
  isPart = false,
): Promise<Uint8Array<ArrayBuffer>> {
  const collector = new Collector(options.name ?? url, options);
  let firstFault: unknown; // the first fault says what happened; later ones only repeat it
  for (let attempts = 0; ; attempts++) {
    const from = collector.length;
    try {
      await readFrom(url, collector, isPart ? first : undefined, signal);
      return collector.finish("network");
    } catch (error) {
      throwIfAborted(signal);
      if (collector.length > from) {
        attempts = 0;
        firstFault = undefined;
      }
      firstFault ??= error;
      const isFinal = error instanceof SlimViTError && error.code !== "network";
      const canResume = collector.length > 0 && options.exactly !== undefined;
      if (isFinal || !canResume || attempts >= ATTEMPTS) throw asNetworkError(collector, firstFault);
      await new Promise((resolve) => setTimeout(resolve, WAIT_MS * 2 ** attempts));
      throwIfAborted(signal);
    }
  }
}

/**
 * Adds the bytes that follow those already received.
 *
 * @param first of a part of a file: where it begins
 */
async function readFrom(
  url: string,
  collector: Collector,
  first: number | undefined,
  signal?: AbortSignal,
): Promise<void> {
  const from = collector.length;
  const request = new AbortController();
  const cancel = () => request.abort();
  let isStalled = false;
  const withinTime = async <T>(step: Promise<T>): Promise<T> => {
    const timer = setTimeout(() => {
      isStalled = true;
      cancel();
    }, STALL_MS);
    return step.finally(() => clearTimeout(timer));
  };
  signal?.addEventListener("abort", cancel);
  try {
    throwIfAborted(signal);
    const last = first === undefined ? "" : first + collector.options.exactly! - 1;
    const start = (first ?? 0) + from;
    const headers: HeadersInit = first !== undefined || from ? { Range: `bytes=${start}-${last}` } : {};
    const { ok, status, body } = await withinTime(fetch(url, { signal: request.signal, headers }));
    if (!ok || !body) {
      const expected = collector.options.expected ?? "a file of a published model";
      throw new SlimViTError("network", `${collector.name}: the server answered ${status}; expected ${expected}.`);
    }
    if (first !== undefined && status !== 206)
      throw new SlimViTError(
        "network",
        `${collector.name}: the server answered ${status}; expected a part of the file.`,
      );
    let skip = status === 206 ? 0 : from; // a server without ranges starts again
    const reader = body.getReader();
    for (;;) {
      const { done, value } = await withinTime(reader.read());
      if (done) return;
      if (skip < value.length) collector.add(value.subarray(skip));
      skip = Math.max(0, skip - value.length);
    }
  } catch (error) {
    throw isStalled ? new Error(`nothing came for ${STALL_MS / 1000} s`) : error;
  } finally {
    signal?.removeEventListener("abort", cancel);
    cancel(); // a file that is refused is not read to its end
  }
}

function asNetworkError({ name, length }: Collector, error: unknown): unknown {
  if (error instanceof SlimViTError) return error;
  const fault = length
    ? `broke off after ${length} bytes (${messageOf(error)}).`
    : `could not be fetched (${messageOf(error)}). Is it online, and does it allow this page (CORS)?`;
  return new SlimViTError("network", `${name}: ${fault}`, { cause: error });
}
