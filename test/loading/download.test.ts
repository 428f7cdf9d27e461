/** Loading from a server that breaks off, stalls, forgets ranges or changes its files: never a wrong model, no byte twice. */
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import type { Preprocess } from "../../src/format/model.ts";
import { readImage } from "../../src/image/decode.ts";
import { loadModel } from "../../src/loading/loadModel.ts";
import type { LoadLinks, LoadRequest, Progress, WeightsStore } from "../../src/protocol.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { randomModel } from "../helpers.ts";
import { listen } from "../servers.ts";

const FILE = "model.f32.safetensors";

let folder: string;
let weights: Buffer;
let url: string;
/** what the server does with a request for the weights, the n-th from 0 */
let answer: (n: number, from: number, response: ServerResponse) => void;
let ranges: (string | undefined)[] = [];
let encodings: (string | undefined)[] = [];
/** what it does with a request for slimvit.json */
let answerManifest = (response: ServerResponse): void => void response.end(readFileSync(join(folder, "slimvit.json")));
const server = createServer((request: IncomingMessage, response) => {
  if (request.url !== `/${FILE}`) return answerManifest(response);
  const { range, "accept-encoding": encoding } = request.headers;
  ranges.push(range);
  encodings.push(encoding);
  answer(ranges.length - 1, Number(range?.match(/^bytes=(\d+)-$/)?.[1] ?? 0), response);
});

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-download-"));
  const shape = {
    imageSize: [32, 32] as [number, number],
    patchSize: 8,
    embedDim: 32,
    headDim: 16,
    layerNormEps: 1e-6,
  };
  const block = { headDims: [16, 9], mlpHidden: 64, keepIdx: [...Array(17).keys()] };
  const { manifest, tensors } = randomModel({ ...shape, prefixTokens: 1, blocks: [block, block] }, 3);
  writeModelFolder(folder, manifest, tensors, ["f32"]);
  weights = readFileSync(join(folder, FILE));
  url = `${await listen(server)}/`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
  rmSync(folder, { recursive: true, force: true });
});
afterEach(() => {
  ranges = [];
  encodings = [];
  vi.restoreAllMocks();
});

async function load({ dtype = "f32", ...links }: Partial<LoadRequest> & LoadLinks & { signal?: AbortSignal } = {}) {
  const seen: Progress[] = [];
  const request = { source: { url: url }, engine: "reference", dtype, cache: false } as const;
  const { model } = await loadModel(request, { onProgress: (progress) => seen.push(progress), ...links });
  return { model, seen };
}

const failure = (work: Promise<unknown>) =>
  work.then(
    () => ({ code: "none" }),
    (error) => error,
  );

/** Sends the bytes from…to and hangs up, or ends well if that is all. */
function send(response: ServerResponse, from: number, to: number, body = weights): void {
  response.writeHead(from ? 206 : 200, {
    "Content-Length": body.length - from,
    ...(from && { "Content-Range": `bytes ${from}-${body.length - 1}/${body.length}` }),
  });
  // Closed, not reset: a reset takes what the other side has not read yet with it.
  response.write(body.subarray(from, to), () => (to < body.length ? response.socket?.end() : response.end()));
}

describe("a download that breaks off", () => {
  test.each([1, 50, 99])("after %d of 100 goes on from there: every byte is fetched once", async (percent) => {
    const cut = Math.floor((weights.length * percent) / 100);
    answer = (n, from, response) => send(response, from, n ? weights.length : cut);
    const { model, seen } = await load();
    expect(ranges).toEqual([undefined, `bytes=${cut}-`]);
    expect(model.manifest.blocks).toHaveLength(2);
    const counts = seen.map((progress) => progress.loadedBytes);
    expect(counts).toEqual([...counts].sort((a, b) => a - b));
    expect(counts.at(-1)).toBe(weights.length);
  });

  test("of what the server compresses goes on in plain bytes", async () => {
    const packed = gzipSync(weights);
    let hangUp = () => {};
    answer = (n, from, response) => {
      if (n) return send(response, from, weights.length);
      response.writeHead(200, { "Content-Encoding": "gzip", "Content-Length": packed.length });
      response.write(packed.subarray(0, packed.length / 2));
      hangUp = () => response.destroy();
    };
    const seen: Progress[] = [];
    const onProgress = (progress: Progress) => {
      seen.push(progress);
      hangUp(); // once some of it has been unpacked
    };
    await load({ onProgress });
    expect(ranges).toEqual([undefined, expect.stringMatching(/^bytes=\d{4,}-$/)]);
    expect(encodings).toEqual([expect.stringContaining("gzip"), expect.stringContaining("identity")]);
    expect(seen.at(-1)?.loadedBytes).toBe(weights.length);
  });

  test("again and again still arrives, as long as each try brings something", async () => {
    const piece = Math.ceil(weights.length / 6);
    answer = (_, from, response) => send(response, from, Math.min(weights.length, from + piece));
    await load();
    expect(ranges).toHaveLength(6);
  });

  test("on a server that knows no ranges is read again, and the bytes are the right ones", async () => {
    answer = (n, _, response) => send(response, 0, n ? weights.length : 5000);
    const { seen } = await load();
    expect(ranges).toEqual([undefined, "bytes=5000-"]);
    expect(seen.at(-1)!.loadedBytes).toBe(weights.length);
  });

  test("and whose server answers 503 for a moment goes on after it", async () => {
    answer = (n, from, response) =>
      n === 1 ? void response.writeHead(503).end() : send(response, from, n ? weights.length : 5000);
    await load();
    expect(ranges).toEqual([undefined, "bytes=5000-", "bytes=5000-"]);
  });

  test("always at the same byte is a network error that says where", async () => {
    answer = (_, from, response) => (from ? response.destroy() : send(response, 0, 5000));
    const error = await failure(load());
    expect(error).toMatchObject({ code: "network" });
    expect(error.message).toMatch(/model\.f32\.safetensors: broke off after 5000 bytes/);
    expect(ranges).toHaveLength(4);
  });

  test("and is another file by now is an integrity error, never a mixture", async () => {
    const other = Buffer.from(weights).fill(7, 6000);
    answer = (n, from, response) => send(response, from, n ? weights.length : 5000, n ? other : weights);
    expect(await failure(load())).toMatchObject({ code: "integrity" });
  });

  test("stops trying when the caller aborts", async () => {
    const controller = new AbortController();
    answer = (n, from, response) => {
      if (n) controller.abort();
      send(response, from, from + 1000);
    };
    expect(await failure(load({ signal: controller.signal }))).toMatchObject({ code: "aborted" });
    const tries = ranges.length;
    await new Promise((resolve) => setTimeout(resolve, 600));
    expect(ranges).toHaveLength(tries);
  });
});

/**
 * A stall is over after ten rounds of the event loop without a byte, in place of 30 s. Server and client share this loop, so
 * on a machine of whatever speed what was sent has come by then.
 */
function shortenStalls(): void {
  const wait = globalThis.setTimeout;
  const afterRounds = (work: () => void) => {
    let rounds = 0;
    const timer = setInterval(() => {
      if (++rounds < 10) return;
      clearInterval(timer);
      work();
    }, 20);
    return timer; // clearTimeout ends it as well
  };
  vi.spyOn(globalThis, "setTimeout").mockImplementation(((work: () => void, ms: number) =>
    ms === 30_000 ? afterRounds(work) : wait(work, ms)) as typeof setTimeout);
}

test("a server that stalls is hung up on, and the rest fetched anew", async () => {
  shortenStalls();
  answer = (n, from, response) => {
    if (n) return send(response, from, weights.length);
    response.writeHead(200, { "Content-Length": weights.length });
    response.write(weights.subarray(0, 5000)); // and then nothing
  };
  await load();
  expect(ranges).toEqual([undefined, "bytes=5000-"]);
});

test("a server that never answers is a network error", async () => {
  shortenStalls();
  answer = () => {};
  const error = await failure(load());
  expect(error).toMatchObject({ code: "network" });
  expect(error.message).toMatch(/model\.f32\.safetensors: could not be fetched \(nothing came for 30 s\)/);
});

test("a dtype that the folder lacks is refused before any weights are asked for", async () => {
  answer = (_, from, response) => send(response, from, weights.length);
  expect(await failure(load({ dtype: "f8" as "f32" }))).toMatchObject({ code: "bad-option" });
  expect(ranges).toEqual([]);
});

describe("a picture by its URL", () => {
  const read = async () => {
    vi.stubGlobal("createImageBitmap", () => {});
    vi.stubGlobal(
      "OffscreenCanvas",
      class {
        getContext = () => ({});
      },
    ); // as in a browser
    const how = { resize: 8, crop: [8, 8], interpolation: "bicubic", mean: [0, 0, 0], std: [1, 1, 1] } as Preprocess;
    const error = await failure(readImage({ kind: "url", url: `${url}${FILE}` }, undefined, how));
    vi.unstubAllGlobals();
    return error;
  };

  test("that stalls is a network error after 30 s, like a model's file", async () => {
    shortenStalls();
    answer = (_, __, response) => void response.write("RIFF");
    const error = await read();
    expect(error).toMatchObject({ code: "network", message: expect.stringMatching(/nothing came for 30 s/) });
  });

  test("that is missing says that a picture was expected", async () => {
    answer = (_, __, response) => void response.writeHead(404).end();
    const message = expect.stringMatching(/answered 404; expected a picture\.$/);
    expect(await read()).toMatchObject({ code: "network", message });
  });
});

test("a manifest that stalls half way is a network error, not taken for a bad one", async () => {
  shortenStalls();
  const before = answerManifest;
  answerManifest = (response) => void response.write(readFileSync(join(folder, "slimvit.json")).subarray(0, 300));
  const error = await failure(load());
  answerManifest = before;
  expect(error).toMatchObject({ code: "network" });
  expect(error.message).toMatch(/slimvit\.json: broke off after 300 bytes \(nothing came for 30 s\)/);
});

test("a short file is a network error, a long one an integrity error", async () => {
  answer = (_, from, response) =>
    from ? void response.writeHead(416).end() : void response.end(weights.subarray(0, 5000));
  const short = await failure(load());
  expect(short).toMatchObject({ code: "network" });
  expect(short.message).toMatch(new RegExp(`ended after 5000 of the ${weights.length} bytes in slimvit.json`));
  answer = (_, __, response) => void response.end(Buffer.concat([weights, Buffer.from("x")]));
  expect(await failure(load())).toMatchObject({ code: "integrity" });
});

describe("a web page that answers for a missing file, as of a single-page app", () => {
  const page = "\n<!DOCTYPE html><html><title>my app</title></html>";
  const fallback = /is a web page; .*single-page app's fallback/;

  test("in the manifest's place is named", async () => {
    const before = answerManifest;
    answerManifest = (response) => void response.writeHead(200, { "Content-Type": "text/html" }).end(page);
    try {
      const error = await failure(load());
      expect(error).toMatchObject({ code: "bad-model", message: expect.stringMatching(fallback) });
      expect(error.message).toMatch(/slimvit\.json/);
    } finally {
      answerManifest = before;
    }
  });

  test("in the weights' place is named", async () => {
    answer = (_, __, response) => void response.writeHead(200).end(page);
    const error = await failure(load());
    expect(error).toMatchObject({ code: "bad-model", message: expect.stringMatching(fallback) });
    expect(ranges).toHaveLength(1); // it is not asked for again
  });
});

describe("a store", () => {
  const sha256 = () => createHash("sha256").update(weights).digest("hex");
  const storeOf = (kept: Map<string, Uint8Array>): WeightsStore => ({
    get: async (key) => kept.get(key),
    put: async (key, bytes) => void kept.set(key, bytes),
  });

  test("is asked by sha256, filled once, and its hit is not fetched", async () => {
    answer = (_, from, response) => send(response, from, weights.length);
    const kept = new Map<string, Uint8Array>();
    await load({ store: storeOf(kept) });
    expect([...kept.keys()]).toEqual([sha256()]);
    const { seen } = await load({ store: storeOf(kept) });
    expect(ranges).toHaveLength(1);
    expect(seen).toEqual([{ file: FILE, loadedBytes: weights.length, totalBytes: weights.length, cached: true }]);
  });

  test("whose entry lost a bit is not believed: the weights are fetched and kept anew", async () => {
    answer = (_, from, response) => send(response, from, weights.length);
    const flipped = new Uint8Array(weights);
    flipped[flipped.length - 3] ^= 64;
    const kept = new Map([[sha256(), flipped]]);
    await load({ store: storeOf(kept) });
    expect(ranges).toHaveLength(1);
    expect(createHash("sha256").update(kept.get(sha256())!).digest("hex")).toBe(sha256());
  });

  test("that returns something else than bytes is as good as an empty one", async () => {
    answer = (_, from, response) => send(response, from, weights.length);
    const buffer = new Uint8Array(weights).buffer as unknown as Uint8Array; // the right bytes, in the wrong wrapping
    await load({ store: { get: async () => buffer, put: async () => {} } });
    expect(ranges).toHaveLength(1);
  });
});
