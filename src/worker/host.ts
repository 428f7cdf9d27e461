/** Answers the page's calls, on one model. */
import { asSlimViTError, SlimViTError, throwIfAborted } from "../errors.ts";
import type { CallId, Host } from "../protocol.ts";
import { Session } from "./session.ts";

export function createHost(): Host {
  let session: Session | undefined;
  const calls = new Map<CallId, AbortController>();
  const abortable = async <T>(call: CallId, work: (signal: AbortSignal) => Promise<T>): Promise<T> => {
    const controller = new AbortController();
    calls.set(call, controller);
    try {
      return await work(controller.signal);
    } catch (error) {
      throw asSlimViTError(error);
    } finally {
      calls.delete(call);
    }
  };
  const loaded = (): Session => {
    if (session) return session;
    throw new SlimViTError("disposed", "No model is loaded.");
  };
  return {
    hello: holdLock,
    load: (call, request, store, onNews, locate) =>
      abortable(call, async (signal) => {
        const opened = await Session.open(request, { store, onProgress: onNews, locate, onInfo: onNews }, signal);
        if (signal.aborted) opened.dispose(); // the abort came in the last moment
        throwIfAborted(signal);
        session = opened;
        return opened.info;
      }),
    run: (call, image, request) => abortable(call, (signal) => loaded().run(image, request, signal)),
    teach: (call, request, onProgress) => abortable(call, (signal) => loaded().teach(request, signal, onProgress)),
    use: (call, request) => abortable(call, async () => loaded().use(request)),
    abort: (call) => calls.get(call)?.abort(),
    dispose() {
      session?.dispose();
      session = undefined;
    },
  };
}

/** Holds a lock. A page that gets the lock after us knows that this worker is gone. */
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
