/** A folder of several variants behind a server. The test decides how requests for its weights are answered. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { weightsIn, writeElastic } from "./elasticFolder.ts";
import { listen } from "./servers.ts";

export interface ElasticServer {
  /** on disk */
  folder: string;
  weights: Buffer;
  /** @returns an address that was not given before, so that no two loads share their weights */
  url(): string;
  close(): void;
}

export async function serveElastic(
  answer: (request: IncomingMessage, response: ServerResponse) => void,
): Promise<ElasticServer> {
  const parent = mkdtempSync(join(tmpdir(), "slimvit-elastic-"));
  const folder = join(parent, "model");
  await writeElastic(folder);
  const manifest = readFileSync(join(folder, "slimvit.json"));
  const server = createServer((request, response) => {
    if (request.url!.includes("model.")) answer(request, response);
    else response.end(manifest);
  });
  const origin = await listen(server);
  let given = 0;
  return {
    folder,
    weights: readFileSync(weightsIn(folder)),
    url: () => `${origin}/${given++}/`,
    close() {
      server.closeAllConnections();
      server.close();
      rmSync(parent, { recursive: true, force: true });
    },
  };
}

/** @returns the range that is asked for, or all: first byte, and the one after the last */
export function partOf({ headers }: IncomingMessage, weights: Buffer): [from: number, to: number] {
  const [, first, last] = headers.range?.match(/^bytes=(\d+)-(\d*)$/) ?? [];
  return [Number(first ?? 0), last ? Number(last) + 1 : weights.length];
}

/** @param share of the part; the connection then ends before the rest, which is promised, has come */
export function sendPart(request: IncomingMessage, response: ServerResponse, weights: Buffer, share = 1): void {
  const [from, to] = partOf(request, weights);
  const length = { "Content-Length": to - from };
  if (request.headers.range)
    response.writeHead(206, { ...length, "Content-Range": `bytes ${from}-${to - 1}/${weights.length}` });
  else response.writeHead(200, length);
  const part = weights.subarray(from, from + Math.ceil((to - from) * share));
  if (share < 1) response.write(part, () => response.socket?.end());
  else response.end(part);
}
