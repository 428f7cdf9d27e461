import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openStage, type Stage } from "../browser/page.ts";
import { listen } from "../servers.ts";
import { count, Tally } from "./tally.ts";

let stage: Stage;
let server: Server;
let origin: string;
let manifest: Buffer;
let weights: Buffer;
let fault: (request: IncomingMessage, response: ServerResponse) => boolean;
/** bytes of weights that were sent */
let sent: number;
beforeAll(async () => {
  stage = await openStage();
  const folder = join(stage.models, "tiny");
  manifest = readFileSync(join(folder, "slimvit.json"));
  weights = readFileSync(join(folder, "model.f32.safetensors"));
  server = createServer((request, response) => {
    response.setHeader("Access-Control-Allow-Origin", stage.origin);
    response.setHeader("Access-Control-Allow-Headers", "range");
    response.setHeader("Cross-Origin-Resource-Policy", "cross-origin");
    if (request.method === "OPTIONS") return response.end();
    if (fault(request, response)) return;
    if (isManifest(request)) return response.end(manifest);
    sent += weights.length;
    response.end(weights);
  });
  origin = await listen(server);
});
afterAll(async () => {
  server?.closeAllConnections();
  server?.close();
  await stage?.close();
});

const isManifest = ({ url }: IncomingMessage) => url!.endsWith("slimvit.json");
let folders = 0;

/** A folder that was not asked for before, so that no cache of the browser's answers for the server. */
const loadFrom = (cache = false, ms = 20_000) =>
  stage.page.evaluate(
    async ([url, cache, ms]) => {
      const options = { engine: "reference", dtype: "f32", cache, signal: AbortSignal.timeout(ms as number) };
      const start = performance.now();
      let score = 0;
      const error = await failure(
        load(options, url).then(async (vit) => {
          score = (await vit.classify(picture())).classes[0].score;
          vit.dispose();
        }),
      );
      return { ...error, score, ms: performance.now() - start };
    },
    [`${origin}/${folders++}/`, cache, ms] as const,
  );

type Fault = [what: string, expected: string, fault: typeof fault, ms?: number];

/** What was sent has time to arrive, on a busy machine too: a browser throws away what it has not read of a broken connection. */
const ARRIVES_MS = 250;

/** The connection ends without a word after some of the body. */
function cut(response: ServerResponse, body: Buffer, share: number): boolean {
  response.writeHead(200, { "Content-Length": body.length });
  response.write(
    body.subarray(0, Math.floor(body.length * share)),
    () => void setTimeout(() => response.destroy(), ARRIVES_MS),
  );
  return true;
}

const answer = (response: ServerResponse, status: number, body: Buffer | string = "", headers = {}) => {
  response.writeHead(status, headers).end(body);
  return true;
};

function faults(): Fault[] {
  const html = "<!doctype html><h1>Sign in</h1>";
  const of =
    (
      file: "manifest" | "weights",
      act: (response: ServerResponse, request: IncomingMessage) => boolean,
    ): typeof fault =>
    (request, response) =>
      (file === "manifest") === isManifest(request) && act(response, request);
  const both = (
    what: string,
    expected: string | [string, string],
    act: (response: ServerResponse) => boolean,
    ms?: number,
  ) =>
    (["manifest", "weights"] as const).map(
      (file, k): Fault => [
        `${what} for ${file}`,
        typeof expected === "string" ? expected : expected[k],
        of(file, act),
        ms,
      ],
    );
  const shares = count(9, 1);
  const cuts = Array.from({ length: shares }, (_, k) => (k + 1) / (shares + 1));
  return [
    ...both("404", "network", (r) => answer(r, 404, html)),
    ...both("500", "network", (r) => answer(r, 500, html)),
    ...both("403", "network", (r) => answer(r, 403)),
    ...both("503 with Retry-After", "network", (r) => answer(r, 503, "", { "Retry-After": "999999" })),
    ...both("204", ["bad-model", "network"], (r) => answer(r, 204)),
    ...both("no byte", ["bad-model", "network"], (r) => answer(r, 200)),
    ...both("HTML", "bad-model", (r) => answer(r, 200, html, { "Content-Type": "text/html" })),
    ...both("a redirect to itself", "network", (r) => answer(r, 302, "", { Location: "" })),
    ...both("a redirect to nowhere", "network", (r) => answer(r, 302, "", { Location: "http://127.0.0.1:1/" })),
    ...both("a body that is no gzip", "network", (r) => answer(r, 200, html, { "Content-Encoding": "gzip" })),
    ...both("a closed connection", "network", (r) => !!r.destroy()),
    ...both("no answer", "aborted", () => true, 1000),
    ...both("a stall after the headers", "aborted", (r) => !!r.writeHead(200).write(" "), 1000),
    ["another file's weights", "integrity", of("weights", (r) => answer(r, 200, Buffer.alloc(weights.length)))],
    ["longer weights", "integrity", of("weights", (r) => answer(r, 200, Buffer.concat([weights, Buffer.alloc(1)])))],
    ["shorter weights", "network", of("weights", (r) => answer(r, 200, weights.subarray(0, -1)))],
    ["half a manifest", "bad-model", of("manifest", (r) => answer(r, 200, manifest.subarray(0, manifest.length >> 1)))],
    ...cuts.map(
      (share): Fault => [`manifest cut at ${share}`, "network", of("manifest", (r) => cut(r, manifest, share))],
    ),
    ...cuts.map(
      (share): Fault => [`weights cut at ${share} each time`, "network", of("weights", (r) => cut(r, weights, share))],
    ),
  ];
}

test("a network that fails gives a code in time and never a wrong result, and the next load works", async () => {
  const tally = new Tally("network", "faults");
  fault = () => false;
  const right = await loadFrom();
  expect(right.code).toBe("none");
  for (const [what, expected, act, ms] of faults()) {
    fault = act;
    const got = await loadFrom(false, ms);
    tally.add(
      got.code === expected && got.ours && got.ms < 20_000
        ? ""
        : `${what}: ${got.code} after ${got.ms} ms, ${got.message}`,
    );
  }
  fault = () => false;
  const after = await loadFrom();
  tally.add(after.score === right.score ? "" : `the load after them: ${after.code} ${after.message}`);
  tally.close();
});

test("a download that breaks goes on where it broke, and nothing is fetched twice", async () => {
  const tally = new Tally("network", "downloads broken off once");
  const shares = count(20, 3);
  for (let k = 1; k <= shares; k++) {
    sent = 0;
    let isFirst = true;
    const at = Math.floor((weights.length * k) / (shares + 1));
    fault = (request, response) => {
      if (isManifest(request)) return false;
      if (isFirst) {
        isFirst = false;
        sent += at;
        return cut(response, weights, at / weights.length);
      }
      const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
      sent += weights.length - from;
      return answer(response, from ? 206 : 200, weights.subarray(from));
    };
    const got = await loadFrom();
    tally.add(
      got.code === "none" && sent === weights.length
        ? ""
        : `cut at ${at}: ${got.code} ${got.message}, ${sent} bytes sent`,
    );
  }
  tally.close();
});

test("a cache that is corrupt, full, deleted or old is refetched once, never fatal", async () => {
  const tally = new Tally("cache", "states of the cache");
  const url = `${origin}/cached/`;
  let asked = 0;
  fault = (request) => {
    if (!isManifest(request)) asked++;
    return false;
  };
  const visit = async () => {
    asked = 0;
    const got = await stage.page.evaluate(async (url) => {
      let cached = false;
      let score = 0;
      const options = {
        engine: "reference",
        dtype: "f32",
        onProgress: (p: { cached: boolean }) => (cached = p.cached),
      };
      const error = await failure(
        load(options, url).then(async (vit) => {
          score = (await vit.classify(picture())).classes[0].score;
          vit.dispose();
        }),
      );
      return { ...error, cached, score };
    }, url);
    return { ...got, asked };
  };
  const first = await visit();
  const expectVisit = async (what: string, cached: boolean) => {
    const got = await visit();
    const isOnce = got.asked === (cached ? 0 : 1);
    const isRight = got.code === "none" && got.score === first.score && got.cached === cached && isOnce;
    tally.add(isRight ? "" : `${what}: ${JSON.stringify(got)}`);
  };
  const spoil = (how: string) =>
    stage.page.evaluate(async (how) => {
      const cache = await caches.open("slimvit");
      if (how === "deleted") return void (await caches.delete("slimvit"));
      for (const request of await cache.keys()) {
        const bytes = new Uint8Array(await (await cache.match(request))!.arrayBuffer());
        if (how === "a bit flipped") bytes[bytes.length - 1] ^= 1;
        if (how === "HTML") bytes.fill(60);
        const kept = how === "empty" ? new Uint8Array(0) : how === "cut" ? bytes.subarray(0, bytes.length >> 1) : bytes;
        if (how === "an entry deleted") await cache.delete(request);
        else await cache.put(request, new Response(kept, how === "an error answer" ? { status: 500 } : {}));
      }
    }, how);
  await expectVisit("whole", true);
  for (let round = 0; round < count(10, 1); round++) {
    for (const how of ["a bit flipped", "cut", "empty", "HTML", "an entry deleted", "deleted"]) {
      await spoil(how);
      await expectVisit(how, false);
      await expectVisit(`after ${how}`, true);
    }
    await spoil("an error answer"); // its bytes are whole, and only they count
    await expectVisit("an error answer", true);
  }

  const session = await stage.page.context().newCDPSession(stage.page);
  await spoil("deleted");
  await session.send("Storage.overrideQuotaForOrigin", { origin: stage.origin, quotaSize: 1 });
  await expectVisit("no quota", false);
  await expectVisit("no quota again", false);
  await session.send("Storage.overrideQuotaForOrigin", { origin: stage.origin });
  await expectVisit("quota again", false);
  await expectVisit("kept again", true);

  // A newer version under the same address: other weights, so another entry.
  const newer = JSON.parse(manifest.toString());
  weights.writeFloatLE(weights.readFloatLE(weights.length - 4) + 0.5, weights.length - 4);
  const entry = newer.weights.find((file: { dtype: string }) => file.dtype === "f32");
  entry.sha256 = createHash("sha256").update(weights).digest("hex");
  delete newer.variants[0].selfTest;
  manifest = Buffer.from(JSON.stringify(newer));
  const updated = await visit();
  tally.add(
    updated.code === "none" && !updated.cached && updated.asked === 1
      ? ""
      : `a newer version: ${JSON.stringify(updated)}`,
  );
  tally.close();
});
