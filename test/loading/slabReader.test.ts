/** Slabs that are read while others let go of them, that come damaged, and manifests whose slabs nobody needs. */
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readManifest } from "../../src/format/read.ts";
import { type LoadOptions, SlimViT } from "../../src/index.ts";
import { openFolder } from "../../src/loading/folders.ts";
import { SlabReader } from "../../src/loading/slabReader.ts";
import { elastic } from "../../tools/elastic/elastic.ts";
import { NAMES } from "../elasticFolder.ts";
import { type ElasticServer, sendPart, serveElastic } from "../elasticServer.ts";
import { workplace } from "../tools/fixtures.ts";

const at = workplace("slab-reader");
let server: ElasticServer;
let answer: (request: IncomingMessage, response: ServerResponse) => void;
beforeAll(async () => {
  server = await serveElastic((request, response) => answer(request, response));
  await elastic(`${server.folder}#small`, { budgets: [1], dtype: ["f32"], out: at("one") });
});
afterAll(() => server.close());

async function openReader(): Promise<SlabReader> {
  const manifest = readManifest(readFileSync(join(server.folder, "slimvit.json"), "utf8"), "slimvit.json");
  return new SlabReader(manifest, manifest.weights[0], { folder: await openFolder({ url: server.url() }), notes: [] });
}

const sendRange = (request: IncomingMessage, response: ServerResponse) => sendPart(request, response, server.weights);

test("a variant is read to its end though the bytes are let go meanwhile", async () => {
  const reader = await openReader();
  answer = (request, response) => {
    reader.release();
    sendRange(request, response);
  };
  const loading = NAMES.map((name) => reader.loadVariant(name));
  reader.release();
  expect((await Promise.all(loading)).map(({ manifest }) => manifest.variant)).toEqual(NAMES);
});

test("a file that a server without ranges sent damaged is fetched again", async () => {
  const reader = await openReader();
  const damaged = Buffer.from(server.weights);
  damaged[damaged.length - 1] ^= 1;
  let whole: Uint8Array = damaged;
  answer = (_, response) => void response.end(whole);
  await reader.loadVariant("small");
  await expect(reader.loadVariant("large")).rejects.toMatchObject({ code: "integrity" });
  whole = server.weights;
  expect((await reader.loadVariant("large")).manifest.variant).toBe("large");
});

/** A copy of a folder with another manifest. */
function edited(folder: string, name: string, edit: (manifest: Record<string, never>) => void): string {
  cpSync(folder, at(name), { recursive: true });
  const manifest = JSON.parse(readFileSync(at(name, "slimvit.json"), "utf8"));
  edit(manifest);
  writeFileSync(at(name, "slimvit.json"), JSON.stringify(manifest));
  return at(name);
}

async function loaded<T>(folder: string, options: LoadOptions, look: (vit: SlimViT) => T | Promise<T>): Promise<T> {
  const vit = await SlimViT.load(folder, { engine: "simd", threads: 1, ...options });
  try {
    return await look(vit);
  } finally {
    vit.dispose();
  }
}

describe("what no variant needs does no harm", () => {
  test.each([[{}], [5], ["slabs"], [[null]], [[]]])(
    "slabs %j in a folder of one variant, which is read whole",
    async (slabs) => {
      const folder = edited(at("one"), `one-${JSON.stringify(slabs)}`, (m) => {
        (m.weights as { slabs: unknown }[])[0].slabs = slabs;
      });
      const [{ bytes }] = readManifest(readFileSync(at("one", "slimvit.json"), "utf8"), "slimvit.json").weights;
      expect(await loaded(folder, {}, ({ info }) => info.sizeBytes)).toBe(bytes);
    },
  );

  test("entries of metrics that are no objects", async () => {
    const folder = edited(server.folder, "metrics", (m) => {
      for (const variant of m.variants as { metrics: object }[]) variant.metrics = { accuracy: [null] };
    });
    expect(await loaded(folder, {}, (vit) => vit.use({ latencyMs: 1e6 }))).toMatchObject({ variant: "large" });
  });
});

test("null as the name of a variant is refused, not taken for the smallest", async () => {
  const loading = SlimViT.load(server.folder, { variant: null as never });
  await expect(loading).rejects.toMatchObject({
    code: "bad-option",
    message: expect.stringMatching(/no variant null/),
  });
});
