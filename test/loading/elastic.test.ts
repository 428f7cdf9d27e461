/** Loading a folder of several variants: the smallest answers first, and whatever befalls the rest does it no harm. */
import { readFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { Manifest, Slab } from "../../src/format/model.ts";
import { readManifest } from "../../src/format/read.ts";
import { type LoadOptions, type ModelInfo, type Progress, SlimViT } from "../../src/index.ts";
import { readModelFolder } from "../../tools/models/folders.ts";
import { NAMES } from "../elasticFolder.ts";
import { type ElasticServer, partOf, sendPart, serveElastic } from "../elasticServer.ts";

let server: ElasticServer;
let weights: Buffer;
let manifest: Manifest;
let slabs: Slab[];
/** requests for the weights */
let ranges: (string | undefined)[] = [];
type Answer = (request: IncomingMessage, response: ServerResponse) => boolean;
/** What the server does in place of its part; true where it has answered. */
let fault: Answer = () => false;
const open: SlimViT[] = [];

beforeAll(async () => {
  server = await serveElastic((request, response) => {
    ranges.push(request.headers.range);
    if (!fault(request, response)) sendPart(request, response, weights);
  });
  weights = server.weights;
  manifest = readManifest(readFileSync(join(server.folder, "slimvit.json"), "utf8"), "slimvit.json");
  slabs = manifest.weights[0].slabs!;
});
afterAll(() => server.close());
afterEach(() => {
  for (const vit of open.splice(0)) vit.dispose();
  fault = () => false;
  ranges = [];
});

async function load(options: LoadOptions = {}): Promise<SlimViT> {
  const vit = await SlimViT.load(server.url(), { engine: "simd", threads: 1, cache: false, ...options });
  open.push(vit);
  return vit;
}

/** Loads without a budget that any variant misses, and waits for the choice. */
async function settled(options: LoadOptions = {}): Promise<{ vit: SlimViT; first: string; info: ModelInfo }> {
  let tell = (_: ModelInfo) => {};
  const changed = new Promise<ModelInfo>((resolve) => (tell = resolve));
  const vit = await load({ latencyMs: 1e6, onVariant: tell, ...options });
  return { vit, first: vit.info.variant, info: await changed };
}

const picture = () => {
  const data = new Uint8ClampedArray(4 * 32 * 32).map((_, i) => (i * 31) % 256);
  return { data, width: 32, height: 32 };
};

/** What a variant answers when it is asked for by name, from disk. */
async function answerOf(variant: string) {
  const vit = await SlimViT.load(server.folder, { engine: "reference", variant });
  open.push(vit);
  return vit.embed(picture());
}

async function expectAnswers(vit: SlimViT, variant: string): Promise<void> {
  const result = await vit.classify(picture());
  expect(result.variant).toBe(variant);
  const [mine, theirs] = [await vit.embed(picture()), await answerOf(variant)];
  for (const [i, value] of theirs.entries()) expect(mine[i]).toBeCloseTo(value, 3);
}

const end = (count: number) => slabs.slice(0, count).reduce((sum, { bytes }) => sum + bytes, 0);

describe("with ranges", () => {
  test("the smallest variant is fetched first and answers, then the best within the budget", async () => {
    const seen: Progress[] = [];
    const { vit, first, info } = await settled({ onProgress: (progress) => seen.push(progress) });
    expect(first).toBe("small");
    expect(info.variant).toBe("large");
    expect(info.choice).toMatchObject({ latencyMs: 1e6, meets: true });
    expect(ranges[0]).toBe(`bytes=0-${end(1) - 1}`);
    expect(ranges[1]).toBe(`bytes=${end(1)}-${end(3) - 1}`);
    expect(ranges).toHaveLength(2);
    expect(seen.find(({ loadedBytes }) => loadedBytes === end(1))).toMatchObject({ totalBytes: end(1), cached: false });
    expect(seen.at(-1)).toMatchObject({ loadedBytes: end(3), totalBytes: end(3) });
    await expectAnswers(vit, "large");
    expect(vit.info.sizeBytes).toBe(weights.length);
  });

  test("a variant that is asked for by name is all that is fetched", async () => {
    const vit = await load({ variant: "middle" });
    await expectAnswers(vit, "middle");
    expect(ranges).toEqual([`bytes=0-${end(2) - 1}`]);
    expect(vit.info.variants.map(({ name, ready }) => [name, ready])).toEqual([
      ["large", false],
      ["middle", true],
      ["small", true],
    ]);
  });

  test("a budget that none meets leaves the fastest, and info says so", async () => {
    const changes: string[] = [];
    const vit = await load({ latencyMs: 1e-6, onVariant: ({ variant }) => void changes.push(variant) });
    await untilIt(() => vit.classify(picture()).then(() => expect(vit.info.choice).toBeDefined()));
    expect(vit.info).toMatchObject({ variant: "small", choice: { meets: false } });
    expect(vit.info.choice!.reason).toContain("no variant takes at most");
    expect(ranges).toHaveLength(1);
    expect(changes).toEqual([]); // no other variant has come to answer
  });

  test("use() changes to what is there without a download, and fetches what is not", async () => {
    const vit = await load({ variant: "middle" });
    for (const name of ["small", "middle", "small"]) {
      expect((await vit.use(name)).variant).toBe(name);
      await expectAnswers(vit, name);
    }
    expect(ranges).toHaveLength(1);
    await vit.use("large");
    await expectAnswers(vit, "large");
    expect(ranges.slice(1)).toEqual([undefined]); // nothing was kept: neither in a cache, nor beside the engine's copy
    await expect(vit.use("huge")).rejects.toMatchObject({
      code: "bad-option",
      message: expect.stringContaining("huge"),
    });
    await expectAnswers(vit, "large");
  });

  test("a budget in use() is met by a variant that was measured", async () => {
    const { vit } = await settled();
    expect((await vit.use({ latencyMs: 1e-6 })).variant).toBe("small");
    expect((await vit.use({ latencyMs: 1e6 })).variant).toBe("large");
    await expect(vit.use({ latencyMs: -1 })).rejects.toMatchObject({ code: "bad-option" });
  });

  test("a stream within a budget changes its variant, also after use(), and leaves that of other calls", async () => {
    const vit = await load({ variant: "small" });
    await vit.use("large");
    async function* pictures() {
      for (let k = 0; k < 6; k++) yield picture();
    }
    const seen: string[] = [];
    for await (const { variant } of vit.stream(pictures(), { latencyMs: 1e-6 })) seen.push(variant);
    expect(seen).toEqual(["large", "large", "large", "small", "small", "small"]);
    expect((await vit.classify(picture())).variant).toBe("large");
  });

  test("two that share the weights have a variant each", async () => {
    const url = server.url();
    const options = { engine: "simd", threads: 1, cache: false, variant: "large" } as const;
    const [a, b] = [await SlimViT.load(url, options), await SlimViT.load(url, options)];
    open.push(a, b);
    await a.use("small");
    const both = await Promise.all([a, b, a, b].map((vit) => vit.classify(picture())));
    expect(both.map(({ variant }) => variant)).toEqual(["small", "large", "small", "large"]);
    expect([a.info.variant, b.info.variant]).toEqual(["small", "large"]);
    expect(ranges).toHaveLength(1);
  });
});

/** Waits until what it tries succeeds. */
async function untilIt(attempt: () => Promise<unknown>): Promise<void> {
  for (let tries = 0; ; tries++) {
    try {
      await attempt();
      return;
    } catch (error) {
      if (tries > 100) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

describe("whatever befalls the server", () => {
  const whole: Answer = (_, response) => {
    response.end(weights);
    return true;
  };
  const refusing =
    (status: number): Answer =>
    ({ headers }, response) => {
      if (!headers.range) return false;
      response.writeHead(status).end();
      return true;
    };
  test.each<[string, Answer]>([
    ["no ranges", whole],
    ["416 for ranges", refusing(416)],
    ["403 for ranges", refusing(403)],
    ["501 for ranges", refusing(501)],
    [
      "a connection that closes on ranges",
      ({ headers, socket }) => {
        if (headers.range) socket.destroy();
        return !!headers.range;
      },
    ],
  ])("%s: the whole file is fetched once", async (_, answer) => {
    fault = answer;
    const { vit, first, info } = await settled();
    expect([first, info.variant]).toEqual(["small", "large"]);
    await expectAnswers(vit, "large");
    expect(ranges.filter((range) => range === undefined)).toHaveLength(1);
  });

  test("a part that breaks off is resumed where it broke", async () => {
    let broken = 0;
    fault = (request, response) => {
      const [from, to] = partOf(request, weights);
      if (from < end(1) || broken++) return false;
      response.writeHead(206, { "Content-Length": to - from });
      response.write(weights.subarray(from, from + 1000), () => response.socket?.end());
      return true;
    };
    const { vit, info } = await settled();
    expect(info.variant).toBe("large");
    await expectAnswers(vit, "large");
    expect(ranges.at(-1)).toBe(`bytes=${end(1) + 1000}-${end(3) - 1}`);
  });

  test("a second slab that was changed: the first goes on answering, and info says why", async () => {
    fault = (request, response) => {
      const body = Buffer.from(weights);
      body[end(2) - 1] ^= 1;
      sendPart(request, response, body);
      return true;
    };
    const vit = await load({ latencyMs: 1e6 });
    await untilIt(() => vit.classify(picture()).then(() => expect(vit.info.choice).toBeDefined()));
    const faults = vit.info.choice!.measured.filter(({ fault }) => fault);
    expect(faults.length).toBeGreaterThan(0);
    expect(faults[0].fault).toMatch(/slab 2: its sha256 is/);
    await expectAnswers(vit, "small");
    await expect(vit.use("large")).rejects.toMatchObject({ code: "integrity" });
    await expectAnswers(vit, "small");
    fault = () => false;
    await vit.use("large");
    await expectAnswers(vit, "large");
  });

  test("a first slab that was changed is an integrity error", async () => {
    fault = (request, response) => {
      const body = Buffer.from(weights);
      body[100] ^= 1;
      sendPart(request, response, body);
      return true;
    };
    await expect(load()).rejects.toMatchObject({ code: "integrity", message: expect.stringContaining("slab 1") });
  });

  test("a disposed model ends what it still fetches", async () => {
    let closed = () => {};
    const ended = new Promise<void>((resolve) => (closed = resolve));
    fault = (request, response) => {
      if (partOf(request, weights)[0] < end(1)) return false;
      request.socket.on("close", () => closed());
      response.writeHead(206);
      response.write(weights.subarray(end(1), end(1) + 10));
      return true;
    };
    const vit = await load({ latencyMs: 1e6 });
    await untilIt(async () => expect(ranges).toHaveLength(2));
    vit.dispose();
    await ended;
  });
});

test("a store of the app's keeps each slab, and asks for what it lacks alone", async () => {
  const kept = new Map<string, Uint8Array>();
  const cache = {
    get: async (sha256: string) => kept.get(sha256),
    put: async (sha256: string, bytes: Uint8Array) => void kept.set(sha256, bytes.slice()),
  };
  await load({ variant: "small", cache });
  expect([...kept.keys()]).toEqual([slabs[0].sha256]);
  ranges = [];
  const seen: Progress[] = [];
  const onProgress = (progress: Progress) => void seen.push(progress);
  await expectAnswers(await load({ variant: "large", cache, onProgress }), "large");
  expect(ranges).toEqual([`bytes=${end(1)}-${end(3) - 1}`]);
  expect([...kept.keys()].sort()).toEqual(slabs.map(({ sha256 }) => sha256).sort());
  expect(seen.at(-1)).toMatchObject({ loadedBytes: end(3), cached: false }); // only its first part was
  ranges = [];
  await expectAnswers(await load({ variant: "large", cache, onProgress }), "large");
  expect(ranges).toEqual([]);
  expect(seen.at(-1)).toMatchObject({ loadedBytes: end(3), cached: true });
});

test("the largest is the first of the list, and every name is read from the folder", () => {
  expect(manifest.variants.map(({ name }) => name)).toEqual([...NAMES].reverse());
  expect(readModelFolder(server.folder).manifest.variant).toBe("large");
});

test("only a model that stays with one variant can be taught: a head fits the features of one", async () => {
  const colours = { red: [picture(), picture()], blue: [picture(), picture()] };
  const { vit } = await settled();
  await expect(vit.teach(colours)).rejects.toMatchObject({
    code: "unsupported",
    message: expect.stringMatching(/features of one variant/),
  });
  const fixed = await load({ variant: "middle" });
  const taught = await fixed.teach(colours);
  open.push(taught);
  expect(taught.info.labels.map(({ label }) => label)).toEqual(["red", "blue"]);
  expect((await taught.classify(picture())).variant).toBe("middle");
  async function* pictures() {
    for (let k = 0; k < 5; k++) yield picture();
  }
  for await (const { variant, classes } of taught.stream(pictures(), { latencyMs: 1e-6 })) {
    expect(variant).toBe("middle"); // too slow, but no other has these classes
    expect(classes.map(({ label }) => label).sort()).toEqual(["blue", "red"]);
  }
  await expect(taught.use("small")).rejects.toMatchObject({ code: "unsupported" });
  const files = await taught.save();
  const again = await SlimViT.load(files as File[], { engine: "simd", threads: 1 });
  open.push(again);
  expect(again.info.variants).toHaveLength(1);
  expect((await again.classify(picture())).classes).toHaveLength(2);
});
