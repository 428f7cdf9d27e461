/** What the JavaScript of a page and its workers holds, by Chromium's heap snapshots. */
import type { CDPSession, Page } from "playwright-core";

/** Sends a command of Chromium's protocol, and receives what it sends meanwhile. */
interface Target {
  send(method: string, onEvent?: (method: string, params: { chunk?: string }) => void): Promise<void>;
}

/** The page and the workers that it has now. */
export async function openHeaps(page: Page): Promise<Target[]> {
  const session = await page.context().newCDPSession(page);
  const workers: string[] = [];
  session.on("Target.attachedToTarget", ({ sessionId }) => void workers.push(sessionId));
  await session.send("Target.setAutoAttach", { autoAttach: true, waitForDebuggerOnStart: false, flatten: false });
  return [ofPage(session), ...workers.map((id) => ofWorker(session, id))];
}

function ofPage(session: CDPSession): Target {
  return {
    async send(method, onEvent) {
      const listen = (params: { chunk: string }) => onEvent?.("HeapProfiler.addHeapSnapshotChunk", params);
      session.on("HeapProfiler.addHeapSnapshotChunk", listen);
      await session.send(method as "HeapProfiler.enable");
      session.off("HeapProfiler.addHeapSnapshotChunk", listen);
    },
  };
}

let lastId = 0;

/** Playwright opens no sessions with workers; the page's passes messages on. */
function ofWorker(session: CDPSession, sessionId: string): Target {
  return {
    send: (method, onEvent) =>
      new Promise((resolve, reject) => {
        const id = ++lastId;
        const listen = (event: { sessionId: string; message: string }) => {
          if (event.sessionId !== sessionId) return;
          const { method, params, ...answer } = JSON.parse(event.message);
          if (method) onEvent?.(method, params);
          if (answer.id !== id) return;
          session.off("Target.receivedMessageFromTarget", listen);
          if (answer.error) reject(new Error(answer.error.message));
          else resolve();
        };
        session.on("Target.receivedMessageFromTarget", listen);
        session
          .send("Target.sendMessageToTarget", { sessionId, message: JSON.stringify({ id, method }) })
          .catch(reject);
      }),
  };
}

/** @returns how many objects are alive after a collection, by kind: closures, arrays and the browser's own among them */
export async function readHeap(target: Target): Promise<Map<string, number>> {
  const chunks: string[] = [];
  await target.send("HeapProfiler.enable");
  await target.send("HeapProfiler.collectGarbage"); // finalizers run before the snapshot, whose own collection comes too late
  await target.send("HeapProfiler.takeHeapSnapshot", (_, { chunk }) => void (chunk && chunks.push(chunk)));
  return countKinds(JSON.parse(chunks.join("")));
}

interface Snapshot {
  snapshot: { meta: { node_fields: string[]; node_types: [string[]] } };
  nodes: number[];
  strings: string[];
}

const KINDS = new Set(["object", "closure", "array", "native", "regexp", "bigint", "symbol"]);
/**
 * Not held by any program: what V8 keeps for its compiled code, which comes and goes as code is optimised and thrown
 * away, and Chromium's own record of a page's long tasks, 200 entries at most.
 */
const OF_THE_BROWSER =
  /^system \/ (?!JSArrayBufferData)|^\(|^Performance|ScriptTimingInfo|TaskAttribution|LongAnimationFrame|^blink::(BasicHeapVector|HeapVectorBacking|HeapHashTableBacking)/;

function countKinds({ snapshot: { meta }, nodes, strings }: Snapshot): Map<string, number> {
  const width = meta.node_fields.length;
  const kinds = new Map<string, number>();
  for (let at = 0; at < nodes.length; at += width) {
    const type = meta.node_types[0][nodes[at]];
    const name = strings[nodes[at + 1]];
    if (!KINDS.has(type) || OF_THE_BROWSER.test(name)) continue;
    const kind = `${type} ${name.slice(0, 60)}`;
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  }
  return kinds;
}
