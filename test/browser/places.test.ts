/** Places a package ends up in: another origin, a bundle that lost worker.js, an origin without https. */
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Browser, chromium, type Page } from "playwright-core";
import sirv from "sirv";
import { afterAll, beforeAll, expect, test } from "vitest";
import { findChromium } from "../../scripts/setup-chromium.mjs";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { DIST, ORT, tinySlimModel } from "./page.ts";

let folder: string;
let browser: Browser;
let site: Server;
let cdn: Server;
const ports = { site: 0, cdn: 0 };

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-places-"));
  const { draft, tensors } = tinySlimModel();
  writeModelFolder(join(folder, "model"), draft, tensors, ["f16"]);
  cpSync(DIST, join(folder, "dist"), { recursive: true });
  cpSync(DIST, join(folder, "workerless"), { recursive: true });
  rmSync(join(folder, "workerless/worker.js"));
  cpSync(ORT, join(folder, "ort"), {
    recursive: true,
    filter: (path) => !/\.(map|js)$|jsep|jspi|webgpu|webgl/.test(path),
  });
  site = await serve();
  cdn = await serve();
  ports.site = (site.address() as AddressInfo).port;
  ports.cdn = (cdn.address() as AddressInfo).port;
  browser = await chromium.launch({
    executablePath: findChromium(),
    args: [
      "--no-sandbox",
      "--disable-quic",
      "--disable-background-networking",
      "--host-resolver-rules=MAP *.test 127.0.0.1",
    ],
  });
});
afterAll(async () => {
  await browser?.close();
  site?.close();
  cdn?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** Any origin may read, as on a CDN. */
function serve(): Promise<Server> {
  const files = sirv(folder, { dev: true });
  const server = createServer((request, response) => {
    response.setHeader("Access-Control-Allow-Origin", "*");
    if (request.url === "/") {
      response.setHeader("Content-Type", "text/html");
      return response.end("<!doctype html><title>somewhere</title>");
    }
    files(request, response, () => void response.writeHead(404).end());
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

interface Answer {
  classes: number;
  engine: string;
  notes: string[];
  isSecure: boolean;
}

/** @param at where the package lies */
async function classifyOn(origin: string, at: string, options: object = { engine: "onnx-wasm" }): Promise<Answer> {
  const page: Page = await browser.newPage();
  try {
    await page.goto(`${origin}/`);
    const script = `
      import { SlimViT } from ${JSON.stringify(`${at}/index.js`)};
      const engineUrls = { "onnxruntime-web": "/ort/ort.wasm.bundle.min.mjs" };
      SlimViT.load("model/", { engineUrls, ...${JSON.stringify(options)} }).then(async (vit) => {
        const { classes } = await vit.classify({ data: new Uint8Array(40 * 40 * 4).fill(77), width: 40, height: 40 });
        const { engine, notes } = vit.info;
        vit.dispose();
        globalThis.answer = { classes: classes.length, engine, notes, isSecure: isSecureContext };
      }).catch((error) => { globalThis.answer = String(error); });`;
    await page.addScriptTag({ type: "module", content: script });
    const answer = await page.waitForFunction(() => (globalThis as { answer?: unknown }).answer);
    return (await answer.jsonValue()) as Answer;
  } finally {
    await page.close();
  }
}

test("from another origin, as from a CDN", async () => {
  const answer = await classifyOn(`http://localhost:${ports.site}`, `http://127.0.0.1:${ports.cdn}/dist`);
  expect(answer).toMatchObject({ classes: 3, engine: "onnx-wasm", notes: [] });
});

test("from a bundle that lost worker.js: the error names workerUrl, and with it the page answers", async () => {
  const origin = `http://localhost:${ports.site}`;
  expect(await classifyOn(origin, `${origin}/workerless`)).toMatch(
    /worker did not start.*workerless\/worker\.js.*as workerUrl\.$/,
  );
  const workerUrl = `${origin}/dist/worker.js`;
  expect(await classifyOn(origin, `${origin}/workerless`, { engine: "simd", workerUrl })).toMatchObject({
    classes: 3,
    engine: "simd",
  });
});

test.each(["onnx-wasm", "reference"])(
  "on an origin without https, %s: integrity by the small sha256, no cache, and info says so",
  async (engine) => {
    const origin = `http://insecure.test:${ports.site}`;
    const answer = await classifyOn(origin, `${origin}/dist`, { engine });
    expect(answer).toMatchObject({ classes: 3, engine, isSecure: false });
    expect(answer.notes).toEqual([expect.stringMatching(/Cache API.*https/)]);
  },
);
