/** Loads of one folder at once, in one page and in two: one worker, one download, as long as anyone wants it. */
import { createHash } from "node:crypto";
import { cpSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import type { Manifest } from "../../src/format/model.ts";
import { writeFileAtomic } from "../../tools/models/folders.ts";
import { openStage, type Stage } from "./page.ts";

let stage: Stage;
let requested: string[] = [];
beforeAll(async () => {
  stage = await openStage();
  stage.page.context().on("request", (request) => requested.push(new URL(request.url()).pathname));
});
afterAll(() => stage.close());
beforeEach(() => stage.page.evaluate(() => caches.delete("slimvit")));
afterEach(() => {
  requested = [];
});

const downloads = () => requested.filter((path) => path.includes(".safetensors")).length;

test("three loads at once make one download, without a cache, too; each is told of it and disposed of alone", async () => {
  const out = await stage.page.evaluate(async () => {
    const seen = [0, 0, 0];
    const models = await Promise.all(
      [0, 1, 2].map((k) =>
        load({ cache: false, onProgress: (p: { loadedBytes: number }) => (seen[k] = p.loadedBytes) }),
      ),
    );
    const [a, b, c] = models;
    const flying = [failure(a.classify(picture(900, 900))), b.classify(picture())] as const;
    a.dispose();
    a.dispose();
    const error = await flying[0];
    const before = (await flying[1]).classes[0].score;
    b.dispose();
    const after = (await c.classify(picture())).classes[0].score;
    c.dispose();
    return { seen, size: c.info.sizeBytes, error, same: before === after, late: await failure(b.classify(picture())) };
  });
  expect(downloads()).toBe(1);
  expect(out.seen).toEqual([out.size, out.size, out.size]);
  expect(out.error).toMatchObject({ code: "disposed", ours: true });
  expect(out.same).toBe(true);
  expect(out.late).toMatchObject({ code: "disposed", ours: true });
});

test("one that aborts does not take the download from the other; when all have, it ends", async () => {
  const out = await stage.page.evaluate(async () => {
    const workers: Worker[] = [];
    let ended = 0;
    const Original = Worker;
    globalThis.Worker = class extends Original {
      constructor(url: string | URL, options?: WorkerOptions) {
        super(url, options);
        workers.push(this);
      }
      override terminate() {
        ended++;
        super.terminate();
      }
    };
    const [one, two] = [new AbortController(), new AbortController()];
    const options = (controller: AbortController) => ({ cache: false, signal: controller.signal });
    const aborted = failure(load({ ...options(one), onProgress: () => one.abort() }));
    const kept = load(options(two));
    const first = await aborted;
    const vit = await kept;
    const { classes } = await vit.classify(picture());
    const shared = workers.length;
    vit.dispose();
    const afterFirst = ended;

    const all = [new AbortController(), new AbortController()];
    const failures = all.map((controller) => failure(load(options(controller))));
    await new Promise((resolve) => setTimeout(resolve, 1));
    for (const controller of all) controller.abort();
    const errors = await Promise.all(failures);
    await new Promise((resolve) => setTimeout(resolve, 1000)); // a worker that was starting ends when it has
    globalThis.Worker = Original;
    return { first, classes: classes.length, shared, afterFirst, errors, left: workers.length - ended };
  });
  expect(out.first).toMatchObject({ code: "aborted", ours: true });
  expect(out).toMatchObject({ classes: 3, shared: 1, afterFirst: 1, left: 0 });
  for (const error of out.errors) expect(error).toMatchObject({ code: "aborted", ours: true });
});

test("two engines on the same weights download them once between them", async () => {
  const engines = await stage.page.evaluate(async () => {
    const models = await Promise.all([
      load({ engine: "simd", dtype: "f32" }),
      load({ engine: "reference", dtype: "f32" }),
    ]);
    for (const vit of models) vit.dispose();
    return models.map((vit) => vit.info.engine);
  });
  expect(engines).toEqual(["simd", "reference"]);
  expect(downloads()).toBe(1);
});

test("two tabs that load at once download once between them", async () => {
  const context = await stage.browser.newContext();
  let files = 0;
  context.on("request", (request) => void (files += Number(request.url().includes(".safetensors"))));
  const script = `
    const { SlimViT } = await import("/dist/index.js");
    const vit = await SlimViT.load("/models/tiny/", { engine: "simd" });
    vit.dispose();
    globalThis.done = true;`;
  const tabs = [await context.newPage(), await context.newPage()];
  await Promise.all(tabs.map((page) => page.goto(`${stage.origin}/`)));
  await Promise.all(
    tabs.map(async (page) => {
      await page.addScriptTag({ type: "module", content: script });
      await page.waitForFunction(() => (globalThis as { done?: boolean }).done);
    }),
  );
  await context.close();
  expect(files).toBe(1);
});

test("a page in the network's way does not spoil what is kept; of a new version, the old weights go", async () => {
  const folder = join(stage.models, "versions");
  cpSync(join(stage.models, "tiny"), folder, { recursive: true });
  const path = join(folder, "slimvit.json");
  const first = readFileSync(path, "utf8");
  const visit = (source = "/models/versions/") =>
    stage.page.evaluate(async (source) => {
      const error = await failure(load({ engine: "reference", dtype: "f32" }, source).then((vit) => vit.dispose()));
      const cache = await caches.open("slimvit");
      const manifest = await (await cache.match(new URL("/models/versions/slimvit.json", location.href)))?.text();
      return {
        code: error.code,
        manifest,
        weights: (await cache.keys()).filter((key) => /[0-9a-f]{64}$/.test(key.url)).length,
      };
    }, source);
  expect(await visit()).toEqual({ code: "none", manifest: first, weights: 1 });
  // Beside and renamed, all of them: the server may still be looking for the old file's end.
  writeFileAtomic(path, "<!doctype html>Please log in"); // as a hotel's network answers, with 200
  expect(await visit()).toEqual({ code: "bad-model", manifest: first, weights: 1 });

  const newer = JSON.parse(first) as Manifest;
  const entry = newer.weights.find(({ dtype }) => dtype === "f32")!;
  const bytes = readFileSync(join(folder, entry.file));
  bytes.writeFloatLE(bytes.readFloatLE(bytes.length - 4) + 0.5, bytes.length - 4);
  entry.sha256 = createHash("sha256").update(bytes).digest("hex");
  writeFileAtomic(path, JSON.stringify(newer));
  expect(await visit()).toEqual({ code: "integrity", manifest: first, weights: 1 }); // half published
  writeFileAtomic(join(folder, entry.file), bytes);
  expect(await visit()).toEqual({ code: "none", manifest: JSON.stringify(newer), weights: 1 });
});

test("works without a network after the first visit; a server that says 404 is believed", async () => {
  const out = await stage.page.evaluate(async () => {
    const labels = async (source: string) => {
      const vit = await load({ engine: "simd" }, source);
      const { classes } = await vit.classify(picture());
      vit.dispose();
      return classes.length;
    };
    const keep = async (url: string) => {
      const cache = await caches.open("slimvit");
      await cache.put(url, await fetch("/models/tiny/slimvit.json"));
    };
    await labels("/models/tiny/");
    await keep(new URL("/models/gone/slimvit.json", location.href).href);
    // Nothing listens there, as if this page had lost its network.
    const nowhere = "http://127.0.0.1:9/";
    const stranger = await failure(labels(nowhere));
    await keep(`${nowhere}slimvit.json`);
    return { offline: await labels(nowhere), stranger, gone: await failure(labels("/models/gone/")) };
  });
  expect(out.offline).toBe(3);
  expect(out.stranger).toMatchObject({ code: "network", ours: true });
  expect(out.gone).toMatchObject({ code: "network", ours: true });
  expect(downloads()).toBe(1);
});
