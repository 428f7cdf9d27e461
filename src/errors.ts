/** What went wrong, for programs. The message says it for people. */
export type SlimViTErrorCode =
  | "bad-model"
  | "bad-input"
  | "bad-option"
  | "unsupported"
  | "network"
  | "integrity"
  | "aborted"
  | "disposed"
  | "worker-lost"
  | "device-lost"
  | "out-of-memory";

/** The one error class of this package. `cause` holds the underlying error where there is one. */
export class SlimViTError extends Error {
  override readonly name = "SlimViTError";

  constructor(
    readonly code: SlimViTErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }

  /** Of any copy of this class: the GPU engines' file has one of its own. */
  static override [Symbol.hasInstance](value: unknown): value is SlimViTError {
    return value instanceof Object && (value as Error).name === "SlimViTError";
  }
}

/** @throws SlimViTError `aborted` when `signal` has fired */
export function throwIfAborted(signal?: AbortSignal): void {
  if (signal?.aborted) throw new SlimViTError("aborted", "The caller aborted the operation.", { cause: signal.reason });
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
