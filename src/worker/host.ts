/** The fixed list of what a page may ask of its worker. In Node the same object is called directly. */

import { messageOf, SlimViTError, throwIfAborted } from "../errors.ts";
import type { WireImage } from "../image/decode.ts";
import type { Progress, WeightsStore } from "../loading/loadModel.ts";
import { type ClassifyOptions, type ModelInfo, Session, type SessionRequest, type SessionResult } from "./session.ts";

/** A call's own number, by which it can be aborted: an AbortSignal does not cross to a worker. */
export type CallId = number;

export interface Host {
  /** Answers when the worker holds the Web Lock of that name, so that whoever gets it next knows that the worker is gone. */
  hello(lock: string): Promise<void>;
  load(
    call: CallId,
    request: Omit<SessionRequest, "onProgress" | "signal" | "cache" | "locate">,
    cache: boolean | WeightsStore,
    onProgress?: (progress: Progress) => void,
    locate?: (name: string) => Promise<string>,
  ): Promise<ModelInfo>;
  run(call: CallId, image: WireImage, options: ClassifyOptions): Promise<SessionResult>;
  abort(call: CallId): void;
  dispose(): void;
}

export function createHost(): Host {
  let session: Session | undefined;
  const calls = new Map<CallId, AbortController>();
  const abortable = async <T>(call: CallId, work: (signal: AbortSignal) => Promise<T>): Promise<T> => {
    const controller = new AbortController();
    calls.set(call, controller);
    try {
      return await work(controller.signal);
    } catch (error) {
      throw asOurs(error);
    } finally {
      calls.delete(call);
    }
  };
  return {
    hello: holdLock,
    load: (call, request, cache, onProgress, locate) =>
      abortable(call, async (signal) => {
        const opened = await Session.open({ ...request, cache, onProgress, locate, signal });
        if (signal.aborted) opened.dispose(); // in the last moment
        throwIfAborted(signal);
        session = opened;
        return opened.info;
      }),
    run: (call, image, options) =>
      abortable(call, (signal) => {
        if (!session) throw new SlimViTError("disposed", "No model is loaded.");
        return session.run(image, options, signal);
      }),
    abort: (call) => calls.get(call)?.abort(),
    dispose() {
      session?.dispose();
      session = undefined;
    },
  };
}

function holdLock(name: string): Promise<void> {
  return new Promise((answer) => {
    const hold = () => {
      answer();
      return new Promise<never>(() => {});
    };
    if (navigator.locks) navigator.locks.request(name, hold).catch(() => answer());
    else answer(); // insecure origins have no locks
  });
}

function asOurs(error: unknown): unknown {
  if (error instanceof SlimViTError) return error;
  if (error instanceof RangeError && /memory|allocation|length/i.test(error.message)) {
    return new SlimViTError("out-of-memory", `There is not enough memory (${messageOf(error)}).`, { cause: error });
  }
  return error;
}
