/** Several variants: ranges that are refused, cut or changed at random, and changing from one to another a thousand times. */
import type { IncomingMessage, ServerResponse } from "node:http";
import { setTimeout } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterAll, beforeAll, expect, test } from "vitest";
import { SlimViT } from "../../src/index.ts";
import { random } from "../../tools/shared/random.ts";
import { NAMES } from "../elasticFolder.ts";
import { type ElasticServer, sendPart, serveElastic } from "../elasticServer.ts";
import { count, Tally } from "./tally.ts";

let server: ElasticServer;
let next: () => number;
type Answer = (request: IncomingMessage, response: ServerResponse) => void;

const sendWhole: Answer = (request, response) => sendPart(request, response, server.weights);

const status =
  (code: number): Answer =>
  (request, response) =>
    request.headers.range ? void response.writeHead(code).end() : sendWhole(request, response);

const FAULTS: Answer[] = [
  sendWhole,
  (_, response) => response.end(server.weights), // no ranges
  status(416),
  status(403),
  status(500),
  (request, response) => sendPart(request, response, server.weights, next()),
  (request, response) => {
    const body = Buffer.from(server.weights);
    body[Math.floor(next() * body.length)] ^= 1 << Math.floor(next() * 8);
    sendPart(request, response, body);
  },
  ({ socket }) => void socket.destroy(),
];

beforeAll(async () => {
  server = await serveElastic((request, response) => FAULTS[Math.floor(next() * FAULTS.length)](request, response));
});
afterAll(() => server.close());

const picture = () => {
  const data = new Uint8ClampedArray(4 * 32 * 32).map((_, i) => (i * 31) % 256);
  return { data, width: 32, height: 32 };
};

/** What each variant answers when nothing goes wrong. */
async function answers(): Promise<Map<string, number>> {
  const scores = new Map<string, number>();
  for (const variant of NAMES) {
    const vit = await SlimViT.load(server.folder, { engine: "simd", threads: 1, variant });
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
  const codes: string[] = [];
  let vit: SlimViT | undefined;
  try {
    vit = await SlimViT.load(server.url(), { engine: "simd", threads: 1, cache: false, latencyMs: 1e6 });
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
  const vit = await SlimViT.load(server.folder, { engine: "simd", threads: 1, variant: "large" });
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
      // What the last calls hold is let go a turn or two later.
      for (let turn = 0; turn < 5; turn++) {
        await setTimeout(10);
        collect();
      }
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
