/** Several variants: ranges that are refused, cut or changed at random, and changing from one to another a thousand times. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterAll, beforeAll, expect, test } from "vitest";
import { SlimViT } from "../../src/index.ts";
import { random } from "../../tools/shared/random.ts";
import { NAMES, weightsIn, writeElastic } from "../elasticFolder.ts";
import { count, Tally } from "./tally.ts";

let folder: string;
let weights: Buffer;
let next: () => number;
const server = createServer((request, response) => {
  if (!request.url!.includes("model.")) return response.end(readFileSync(join(folder, "slimvit.json")));
  FAULTS[Math.floor(next() * FAULTS.length)](request, response);
});

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

function sendPart({ headers }: IncomingMessage, response: ServerResponse, body: Buffer = weights, cut = 1): void {
  const [, first, last] = headers.range?.match(/^bytes=(\d+)-(\d*)$/) ?? [];
  const [from, to] = [Number(first ?? 0), last ? Number(last) + 1 : weights.length];
  response.writeHead(headers.range ? 206 : 200, { "Content-Length": to - from });
  const part = body.subarray(from, from + Math.ceil((to - from) * cut));
  if (cut < 1) response.write(part, () => response.socket?.end());
  else response.end(part);
}

const status =
  (code: number): Answer =>
  (request, response) =>
    request.headers.range ? void response.writeHead(code).end() : sendPart(request, response);

const FAULTS: Answer[] = [
  sendPart,
  (_, response) => response.end(weights), // no ranges
  status(416),
  status(403),
  status(500),
  (request, response) => sendPart(request, response, weights, next()),
  (request, response) => {
    const body = Buffer.from(weights);
    body[Math.floor(next() * body.length)] ^= 1 << Math.floor(next() * 8);
    sendPart(request, response, body);
  },
  ({ socket }) => void socket.destroy(),
];

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-variants-"));
  await writeElastic(join(folder, "model"));
  folder = join(folder, "model");
  weights = readFileSync(weightsIn(folder));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
  rmSync(join(folder, ".."), { recursive: true, force: true });
});

const picture = () => {
  const data = new Uint8ClampedArray(4 * 32 * 32).map((_, i) => (i * 31) % 256);
  return { data, width: 32, height: 32 };
};

/** What each variant answers when nothing goes wrong. */
async function answers(): Promise<Map<string, number>> {
  const scores = new Map<string, number>();
  for (const variant of NAMES) {
    const vit = await SlimViT.load(folder, { engine: "simd", threads: 1, variant });
    scores.set(variant, (await vit.classify(picture())).classes[0].score);
    vit.dispose();
  }
  return scores;
}

test("whatever happens to ranges, a model answers right or its load says why", async () => {
  const tally = new Tally("variants", "loads from a server with faults at random");
  const wanted = await answers();
  for (let round = 0; round < count(400, 25); round++) {
    next = random(7, round);
    tally.add(await attempt(round, wanted));
  }
  tally.close();
}, 600_000);

/** @returns what went wrong that should not have */
async function attempt(round: number, wanted: Map<string, number>): Promise<string> {
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/${round}/`;
  const codes: string[] = [];
  let vit: SlimViT | undefined;
  try {
    vit = await SlimViT.load(url, { engine: "simd", threads: 1, cache: false, latencyMs: 1e6 });
    for (const name of [undefined, "large", "small", "middle"]) {
      if (name) await vit.use(name).catch(({ code }) => codes.push(code));
      const { variant, classes } = await vit.classify(picture());
      if (Math.abs(classes[0].score - wanted.get(variant)!) > 1e-4) return `round ${round}: ${variant} answered wrong`;
    }
  } catch (error) {
    codes.push((error as { code: string }).code);
  } finally {
    vit?.dispose();
  }
  const odd = codes.find((code) => code !== "network" && code !== "integrity");
  return odd ? `round ${round}: ${odd}` : "";
}

test("a thousand changes of the variant leave nothing behind", async () => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const tally = new Tally("variants", "changes of the variant");
  const wanted = await answers();
  const vit = await SlimViT.load(folder, { engine: "simd", threads: 1, variant: "large" });
  const { memoryBytes } = vit.info;
  const held: number[] = [];
  for (let k = 0; k < 1000; k++) {
    const name = NAMES[(7 * k) % NAMES.length];
    await vit.use(name);
    const { variant, classes } = await vit.classify(picture());
    tally.add(
      variant === name && Math.abs(classes[0].score - wanted.get(name)!) < 1e-4 ? "" : `change ${k}: ${variant}`,
    );
    if (k % 100 === 99) {
      collect();
      const { heapUsed, external, arrayBuffers } = process.memoryUsage();
      held.push(heapUsed + external + arrayBuffers);
    }
  }
  expect(vit.info.memoryBytes).toBe(memoryBytes);
  vit.dispose();
  const growth = (held[9] - held[2]) / 700;
  expect(growth).toBeLessThan(500); // bytes a change
  tally.measured = `memory ${Math.round(growth)} bytes a change`;
  tally.close();
}, 300_000);
