/** What crosses between page and worker: pictures, calls, and errors with their code and cause. */
import { type TransferHandler, transferHandlers } from "comlink";
import { SlimViTError, type SlimViTErrorCode } from "./errors.ts";
import type { RawImage } from "./image.ts";
import type { ModelSource, Progress, WeightsStore } from "./load.ts";
import type { Classification, ModelInfo, SessionClassifyOptions, SessionEmbedOptions, SessionOptions } from "./session.ts";

/** An ImageBitmap is the worker's own, to be closed. URLs are absolute. */
export type WireImage = RawImage | Blob | ImageBitmap | { url: string };

/** What worker.ts exposes. `call` numbers a call, so that `abort` can name it. */
export interface RemoteSession {
  /** Answers once the worker holds the Web Lock of that name: whoever gets the lock next knows that the worker is gone. */
  hello(lock: string): Promise<void>;
  open(
    call: number,
    source: ModelSource,
    options: SessionOptions,
    onProgress?: (progress: Progress) => void,
    store?: WeightsStore,
  ): Promise<ModelInfo>;
  classify(call: number, image: WireImage, options: SessionClassifyOptions): Promise<Classification>;
  embed(call: number, image: WireImage, options: SessionEmbedOptions): Promise<Float32Array>;
  abort(call: number): void;
}

interface WireError {
  slimvit: { code: SlimViTErrorCode; message: string; stack?: string; cause?: { name: string; message: string } };
}

let carried = false;

/** comlink alone carries an error's message, name and stack. Both sides call this before they talk. */
export function carryErrors(): void {
  if (carried) return;
  carried = true;
  const plain = transferHandlers.get("throw") as TransferHandler<{ value: unknown }, unknown>;
  transferHandlers.set("throw", {
    canHandle: plain.canHandle,
    serialize(thrown) {
      return thrown.value instanceof SlimViTError ? [pack(thrown.value), []] : plain.serialize(thrown);
    },
    deserialize(wire) {
      if (isWireError(wire)) throw unpack(wire);
      return plain.deserialize(wire);
    },
  } satisfies TransferHandler<{ value: unknown }, unknown>);
}

function pack({ code, message, stack, cause }: SlimViTError): WireError {
  const plainCause = cause instanceof Error ? { name: cause.name, message: cause.message } : undefined;
  return { slimvit: { code, message, stack, cause: plainCause } };
}

function isWireError(wire: unknown): wire is WireError {
  return typeof wire === "object" && wire !== null && "slimvit" in wire;
}

function unpack({ slimvit: { code, message, stack, cause } }: WireError): SlimViTError {
  const options = cause && { cause: Object.assign(new Error(cause.message), { name: cause.name }) };
  return Object.assign(new SlimViTError(code, message, options), { stack });
}
