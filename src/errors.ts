/** What went wrong. The code is for programs, and the message is for people. */
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

  /** True for errors of every copy of this class: each chunk beside worker.js has one of its own. */
  static override [Symbol.hasInstance](value: unknown): value is SlimViTError {
    return value instanceof Object && (value as Error).name === "SlimViTError";
  }
}

/** @throws SlimViTError `aborted` when `signal` has fired */
export function throwIfAborted(signal?: AbortSignal): void {
  if (signal?.aborted) throw abortedError(signal);
}

export function abortedError({ reason }: AbortSignal): SlimViTError {
  return new SlimViTError("aborted", "The caller aborted the operation.", { cause: reason });
}

/** An error's message, of whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** An error of any kind → one of ours. What we did not foresee is `unsupported`, with the error as its cause. */
export function asSlimViTError(error: unknown): SlimViTError {
  if (error instanceof SlimViTError) return error;
  if (error instanceof RangeError && /memory|allocation|length/i.test(error.message)) {
    return new SlimViTError("out-of-memory", `There is not enough memory (${messageOf(error)}).`, { cause: error });
  }
  if (error instanceof Error && error.name === "DataCloneError") {
    const fault = `A picture or an option cannot be sent to the worker (${error.message}); pass plain data.`;
    return new SlimViTError("bad-option", fault, { cause: error });
  }
  const fault = `The package does not know this failure (${messageOf(error)}).`;
  return new SlimViTError("unsupported", `${fault} Try another engine, and please report it.`, { cause: error });
}
