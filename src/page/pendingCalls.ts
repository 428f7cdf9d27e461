/** Makes sure that every promise settles: with its result, or as soon as the caller aborts or the model is gone. */
import { abortedError, SlimViTError, throwIfAborted } from "../errors.ts";
import type { CallId } from "../protocol.ts";

let nextCall: CallId = 1;

export function disposedError(): SlimViTError {
  return new SlimViTError("disposed", "The model was disposed of; load it again.");
}

export class PendingCalls {
  private isClosed = false;
  /** The rejections of calls that have not settled. */
  private readonly rejects = new Set<(error: SlimViTError) => void>();

  /** @param work gets a signal that fires when the call settles without it */
  settle<T>(signal: AbortSignal | undefined, work: (call: CallId, ended: AbortSignal) => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.isClosed) throw disposedError();
      throwIfAborted(signal);
      const ended = new AbortController();
      const finish = () => {
        this.rejects.delete(fail);
        signal?.removeEventListener("abort", abort);
      };
      const fail = (error: unknown) => {
        finish();
        ended.abort();
        reject(error);
      };
      const abort = () => fail(abortedError(signal!));
      this.rejects.add(fail);
      signal?.addEventListener("abort", abort);
      work(nextCall++, ended.signal).then((value) => {
        finish();
        resolve(value);
      }, fail);
    });
  }

  rejectAll(error: SlimViTError): void {
    for (const reject of [...this.rejects]) reject(error);
  }

  /** Ends all calls; later ones are refused. */
  close(): void {
    this.isClosed = true;
    this.rejectAll(disposedError());
  }
}
