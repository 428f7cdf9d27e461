/** The plain page of examples/ in Firefox and in WebKit, with a shipped model, isolated and not. A missing browser fails. */
import { createServer, type RequestListener } from "node:http";
import { join } from "node:path";
import sirv from "sirv";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ROOT } from "../packages/packed.ts";
import { listen } from "../servers.ts";
import { type OtherBrowser, openFirefox, openWebKit } from "./webdriver.ts";

const MOUNTS: [prefix: string, folder: string][] = [
  ["/node_modules/slimvit/dist/", "dist"],
  ["/models/", "models"],
  ["/samples/", "demo/samples"],
  ["/", "examples/plain-html"],
];

/** Chooses the umbrella in the page's own input, as a visitor does, and waits for the page's answer. */
const CHOOSE = `
  const blob = await (await fetch("/samples/umbrella.jpg")).blob();
  const chosen = new DataTransfer();
  chosen.items.add(new File([blob], "umbrella.jpg", { type: blob.type }));
  const input = document.querySelector("input");
  input.files = chosen.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
  const output = document.querySelector("output");
  while (!output.value) await new Promise((resolve) => setTimeout(resolve, 50));
  return output.value;`;

/** Everything a page can ask for on the way from a file to an answer, in forms that browsers differ in. */
const CALLS = `
  const { SlimViT } = await import("slimvit");
  const vit = await SlimViT.load("/models/deit-tiny-slim/");
  const picture = new Image();
  picture.src = "/samples/umbrella.jpg";
  await picture.decode();
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: picture.naturalWidth, height: picture.naturalHeight });
  canvas.getContext("2d").drawImage(picture, 0, 0);
  const forms = [picture, picture.src, canvas, canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)];
  const labels = [];
  for (const form of forms) labels.push((await vit.classify(form)).classes[0].label);
  const { blockMs, attention } = await vit.classify(picture, { profile: true, explain: true });
  const code = (promise) => promise.then(() => "none", (error) => error.code);
  const late = vit.classify(picture);
  const { engine, simd, threads, dtype, notes } = vit.info;
  vit.dispose();
  return {
    labels, engine, simd, threads, dtype, notes, blocks: [blockMs.length, attention.length], isolated: crossOriginIsolated,
    codes: [await code(late), await code(SlimViT.load("/models/none/"))],
  };`;

describe.each([
  ["Firefox", openFirefox],
  ["WebKit", openWebKit],
])("in %s", (_, open) => {
  let browser: OtherBrowser;
  beforeAll(async () => {
    browser = await open();
  });
  afterAll(() => browser?.close());

  test("scripts run when the page's own have", async () => {
    const { url, close } = await serve(slowPage);
    try {
      expect(await browser.runIn(url, "return globalThis.ran === true;")).toBe(true);
    } finally {
      close();
    }
  });

  test.each([true, false])("the plain page names the umbrella; isolated: %s", async (isolated) => {
    const { url, close } = await serve(plainPage(isolated));
    try {
      const answer = (await browser.runIn(url, CHOOSE)) as string;
      const told = (await browser.runIn(url, CALLS)) as { simd: string; threads: number };
      console.log(`${browser.name}: ${answer}, ${told.simd} kernels, ${told.threads} threads`);
      expect(answer).toMatch(/^umbrella, \d+ ms on simd$/);
      expect(told).toMatchObject({
        labels: Array(4).fill("umbrella"),
        engine: "simd",
        simd: expect.stringMatching(/^(relaxed|plain)$/),
        notes: [],
        blocks: [12, 12],
        isolated,
        codes: ["disposed", "network"],
      });
      if (!isolated) expect(told.threads).toBe(1);
    } finally {
      close();
    }
  });
});

function plainPage(isolated: boolean): RequestListener {
  const mounts = MOUNTS.map(([prefix, at]) => [prefix, sirv(join(ROOT, at), { dev: true })] as const);
  return (request, response) => {
    if (isolated) {
      response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
      response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
    }
    const [prefix, handle] = mounts.find(([start]) => request.url!.startsWith(start))!;
    request.url = request.url!.slice(prefix.length - 1);
    handle(request, response, () => void response.writeHead(404).end());
  };
}

/** A page whose module waits for another, which is slow. */
const slowPage: RequestListener = ({ url }, response) => {
  response.setHeader("Content-Type", url === "/" ? "text/html" : "text/javascript");
  if (url === "/") response.end(`<!doctype html><script type="module" src="main.js"></script>`);
  else if (url === "/main.js") response.end(`import "./slow.js"; globalThis.ran = true;`);
  else setTimeout(() => response.end(), 500);
};

async function serve(answer: RequestListener): Promise<{ url: string; close(): void }> {
  const server = createServer(answer);
  return {
    url: `${await listen(server)}/`,
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}
