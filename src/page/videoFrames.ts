/**
 * Frames of a video or another source. A video gives its newest frame, and drops those in between instead of queueing
 * them. Other sources give every picture.
 */
import { SlimViTError, throwIfAborted } from "../errors.ts";
import type { Classification, FrameSource, ImageInput, StreamOptions } from "../protocol.ts";
import type { Client } from "./client.ts";
import { CLASSIFY, checkOptions, type Names } from "./options.ts";
import { pacedBy } from "./pace.ts";
import { isUnreadableFrame, isVideo } from "./pictures.ts";

/** HTMLMediaElement.HAVE_CURRENT_DATA: there is a frame to show. */
const HAS_FRAME = 2;

export const STREAM: Names<StreamOptions> = { ...CLASSIFY, latencyMs: true, onVariant: true };

/** An answer to each picture of the source; frames that cannot be read yet have none. */
export async function* classifyFrames(
  client: Client,
  source: FrameSource<ImageInput>,
  options: StreamOptions,
): AsyncGenerator<Classification> {
  await checkOptions("stream", options, STREAM);
  const { latencyMs, onVariant, ...rest } = options;
  const classify = (picture: ImageInput, variant?: string) => client.classify(picture, rest, variant);
  const isPaced = latencyMs !== undefined && !client.taught;
  const answer = isPaced ? pacedBy(client, latencyMs, classify, onVariant) : classify;
  const left = new AbortController();
  const frames = framesFrom(source, left.signal);
  try {
    for (;;) {
      const { done, value } = await client.calls.settle(rest.signal, () => frames.next());
      if (done) return;
      let result: Classification;
      try {
        result = await answer(value);
      } catch (error) {
        if (isUnreadableFrame(error)) continue;
        throw error;
      }
      yield result;
    }
  } finally {
    left.abort(); // it may be waiting for a frame that never comes
    await frames.return(undefined);
  }
}

/**
 * Ends with the source. Frames that have a `close()` are closed here: dropped ones, and each when the next is asked for.
 *
 * @throws SlimViTError `aborted`, `bad-input` for what is no source and for a video that breaks off; what the source throws
 */
export function framesFrom<T>(source: FrameSource<T>, signal?: AbortSignal): AsyncGenerator<T | HTMLVideoElement> {
  if (typeof HTMLVideoElement !== "undefined" && source instanceof HTMLVideoElement) return framesOf(source, signal);
  if (source && typeof source === "object" && ("getReader" in source || Symbol.asyncIterator in source))
    return picturesOf(source as ReadableStream<T> | AsyncIterable<T>, signal);
  const isList = typeof source === "object" && source && Symbol.iterator in source;
  const advice = isList ? " For a list of pictures use classifyAll(list)." : "";
  throw new SlimViTError(
    "bad-input",
    `stream was given ${isList ? "a list" : String(source)}; expected a video element, a ReadableStream or an async ` +
      `iterable of pictures.${advice}`,
  );
}

async function* framesOf(video: HTMLVideoElement, signal?: AbortSignal): AsyncGenerator<HTMLVideoElement> {
  if (video.readyState >= HAS_FRAME && !video.ended) yield video; // the frame it shows now, also when it is paused
  for (;;) {
    await nextFrame(video, signal);
    throwIfAborted(signal);
    if (video.error) throw new SlimViTError("bad-input", `The video cannot be played on (${video.error.message}).`);
    if (video.ended) return;
    yield video;
  }
}

/** Resolves with the next frame, the end, a fault or an abort. */
function nextFrame(video: HTMLVideoElement, signal?: AbortSignal): Promise<void> {
  if (video.ended || video.error || signal?.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      video.cancelVideoFrameCallback(handle);
      for (const event of ["ended", "error"]) video.removeEventListener(event, done);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const handle = video.requestVideoFrameCallback(done);
    for (const event of ["ended", "error"]) video.addEventListener(event, done);
    signal?.addEventListener("abort", done);
  });
}

/** Reads ahead by one picture. A VideoFrame that waits gives way to a newer one; any other picture is waited for. */
async function* picturesOf<T>(source: ReadableStream<T> | AsyncIterable<T>, signal?: AbortSignal): AsyncGenerator<T> {
  const { read, stop } = open(source);
  let waiting: { picture: T } | undefined;
  let end: { error?: unknown } | undefined;
  let wake = () => {};
  let wakeReader = () => {};
  const finish = (error?: unknown) => {
    end ??= { error };
    wake();
    wakeReader();
  };
  const readAhead = async () => {
    for (;;) {
      const { done, value } = await read();
      if (done) return finish();
      const picture = value as T;
      if (waiting && isVideo(picture)) close(waiting.picture);
      if (end) return close(picture);
      waiting = { picture };
      wake();
      while (waiting && !isVideo(picture) && !end) await new Promise<void>((resolve) => (wakeReader = resolve));
    }
  };
  const aborted = () => finish();
  signal?.addEventListener("abort", aborted);
  readAhead().catch((error) => finish(error ?? new Error("The source failed.")));
  try {
    for (;;) {
      if (!waiting && !end) await new Promise<void>((resolve) => (wake = resolve));
      throwIfAborted(signal);
      if (!waiting) {
        if (end?.error) throw end.error;
        return;
      }
      const { picture } = waiting;
      waiting = undefined;
      wakeReader();
      try {
        yield picture;
      } finally {
        close(picture);
      }
    }
  } finally {
    finish();
    if (waiting) close(waiting.picture);
    signal?.removeEventListener("abort", aborted);
    stop();
  }
}

interface Reader<T> {
  read(): Promise<{ done?: boolean; value?: T }>;
  stop(): void;
}

function open<T>(source: ReadableStream<T> | AsyncIterable<T>): Reader<T> {
  if ("getReader" in source) {
    const reader = source.getReader();
    return { read: () => reader.read(), stop: () => void reader.cancel().catch(() => {}) };
  }
  const iterator = source[Symbol.asyncIterator]();
  return { read: () => iterator.next(), stop: () => void Promise.resolve(iterator.return?.()).catch(() => {}) };
}

function close(picture: unknown): void {
  (picture as { close?: () => void } | undefined)?.close?.();
}
