/** The worker: one session, exposed through comlink. */
import { expose, transfer } from "comlink";
import { SlimViTError } from "./errors.ts";
import { Session } from "./session.ts";
import { carryErrors, type RemoteSession } from "./wire.ts";

let session: Session | undefined;
const running = new Map<number, AbortController>();

const remote: RemoteSession = {
  hello: holdLock,
  open: (call, source, options, onProgress, store) =>
    abortable(call, async (signal) => {
      session = await Session.open(source, options, { signal, onProgress, store });
      return session.info;
    }),
  classify: (call, image, options) => abortable(call, (signal) => opened().classify(image, options, signal)),
  embed: (call, image, options) =>
    abortable(call, async (signal) => {
      const vector = await opened().embed(image, options, signal);
      return transfer(vector, [vector.buffer]);
    }),
  abort: (call) => running.get(call)?.abort(),
};

function opened(): Session {
  if (!session) throw new SlimViTError("worker-lost", "The worker has no model.");
  return session;
}

async function abortable<T>(call: number, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  running.set(call, controller);
  try {
    return await work(controller.signal);
  } finally {
    running.delete(call);
  }
}

function holdLock(name: string): Promise<void> {
  if (!navigator.locks) return Promise.resolve(); // insecure origins
  return new Promise((held, refused) => {
    const forever = () => {
      held();
      return new Promise<never>(() => {});
    };
    navigator.locks.request(name, forever).catch(refused);
  });
}

carryErrors();
expose(remote);
