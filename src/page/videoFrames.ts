/** Video as it comes: whoever asks gets the newest frame, and those in between are dropped instead of queued. */
import { SlimViTError, throwIfAborted } from "../errors.ts";

/** A playing video, a camera's frames (MediaStreamTrackProcessor), or any source of pictures. */
export type FrameSource<T> = HTMLVideoElement | ReadableStream<T> | AsyncIterable<T>;

/**
 * Ends with the source. Frames that have a `close()` are closed here: the dropped ones, and each when the next is asked for.
 *
 * @throws SlimViTError `aborted`, `bad-input` for a video that breaks off, and what the source throws
 */
export function newestFrames<T>(source: FrameSource<T>, signal?: AbortSignal): AsyncGenerator<T | HTMLVideoElement> {
  if (typeof HTMLVideoElement !== "undefined" && source instanceof HTMLVideoElement) return framesOf(source, signal);
  return newestOf(source as ReadableStream<T> | AsyncIterable<T>, signal);
}

async function* framesOf(video: HTMLVideoElement, signal?: AbortSignal): AsyncGenerator<HTMLVideoElement> {
  if (video.readyState >= 2 && !video.ended) yield video; // what it shows now, also when it is paused
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

async function* newestOf<T>(source: ReadableStream<T> | AsyncIterable<T>, signal?: AbortSignal): AsyncGenerator<T> {
  const { read, stop } = open(source);
  let newest: { frame: T } | undefined;
  let end: { error?: unknown } | undefined;
  let wake = () => {};
  const finish = (error?: unknown) => {
    end ??= { error };
    wake();
  };
  const pump = async () => {
    for (;;) {
      const { done, value } = await read();
      if (done) return finish();
      if (newest) close(newest.frame);
      if (end) return close(value as T);
      newest = { frame: value as T };
      wake();
    }
  };
  const aborted = () => finish();
  signal?.addEventListener("abort", aborted);
  pump().catch((error) => finish(error ?? new Error("The source failed.")));
  try {
    for (;;) {
      if (!newest && !end) await new Promise<void>((resolve) => (wake = resolve));
      throwIfAborted(signal);
      if (!newest) {
        if (end?.error) throw end.error;
        return;
      }
      const { frame } = newest;
      newest = undefined;
      try {
        yield frame;
      } finally {
        close(frame);
      }
    }
  } finally {
    finish();
    if (newest) close(newest.frame);
    signal?.removeEventListener("abort", aborted);
    stop();
  }
}

function open<T>(source: ReadableStream<T> | AsyncIterable<T>): {
  read(): Promise<{ done?: boolean; value?: T }>;
  stop(): void;
} {
  if ("getReader" in source) {
    const reader = source.getReader();
    return { read: () => reader.read(), stop: () => void reader.cancel().catch(() => {}) };
  }
  const iterator = source[Symbol.asyncIterator]();
  return { read: () => iterator.next(), stop: () => void Promise.resolve(iterator.return?.()).catch(() => {}) };
}

function close(frame: unknown): void {
  (frame as { close?: () => void } | undefined)?.close?.();
}
