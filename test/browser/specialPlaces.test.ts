/** Places where a page is not its usual self: service workers, pages on the disk, sandboxed frames, Trusted Types. */
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "esbuild";
import { type Browser, chromium, type Page } from "playwright-core";
import sirv from "sirv";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { findChromium } from "../../scripts/setup-chromium.mjs";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { listen } from "../servers.ts";
import { DIST, tinySlimModel } from "./page.ts";

/** What a place answers to each call: a label, a fact, or an error's class, code and message. */
type Answers = Record<string, string | number | { ours: boolean; code: string; message: string }>;

/** `tryCalls(source, options)` for every call that a script in such a place may make. */
const CALLS = `
  const pixels = (seed = 77) => ({ data: new Uint8Array(40 * 40 * 4).fill(seed), width: 40, height: 40 });
  const answerOf = async (work) => {
    try { return await work(); } catch (error) {
      return { ours: error instanceof SlimViTError, code: error.code, message: error.message };
    }
  };
  const labelOf = (result) => result.classes[0].label;
  globalThis.tryCalls = async (source, options = {}) => {
    let vit;
    const answers = { load: await answerOf(async () => (vit = await SlimViT.load(source, options)).info.engine) };
    if (!vit) return answers;
    answers.threads = vit.info.threads;
    answers.classify = await answerOf(async () => labelOf(await vit.classify(pixels())));
    answers.embed = await answerOf(async () => (await vit.embed(pixels())).length);
    answers.classifyAll = await answerOf(async () => {
      for await (const { result } of vit.classifyAll([pixels()])) return labelOf(result);
    });
    answers.stream = await answerOf(async () => {
      for await (const result of vit.stream((async function* () { yield pixels(); })())) return labelOf(result);
    });
    answers.teach = await answerOf(async () => {
      const mine = await vit.teach({ dark: [pixels(9), pixels(20)], light: [pixels(200), pixels(240)] });
      const label = labelOf(await mine.classify(pixels(230)));
      mine.dispose();
      return label;
    });
    vit.dispose();
    answers.reference = await answerOf(async () => {
      const plain = await SlimViT.load(source, { ...options, engine: "reference" });
      plain.dispose();
      return plain.info.engine;
    });
    return answers;
  };`;

const LABEL = expect.stringMatching(/^a (bananas|cherries|plums)$/);
const ALL = {
  load: "simd",
  classify: LABEL,
  embed: 16,
  classifyAll: LABEL,
  stream: LABEL,
  teach: "light",
  reference: "reference",
};
const refused = (code: string, message: RegExp) => ({ ours: true, code, message: expect.stringMatching(message) });

let folder: string;
let server: Server;
let origin: string;
let browser: Browser;
let headers: Record<string, string> = {};

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-special-"));
  const { draft, tensors } = tinySlimModel();
  writeModelFolder(join(folder, "model"), draft, tensors, ["f16"]);
  const modules = join(folder, "node_modules/slimvit");
  mkdirSync(modules, { recursive: true });
  cpSync(DIST, join(modules, "dist"), { recursive: true });
  cpSync(join(DIST, "../package.json"), join(modules, "package.json"));
  const serviceWorker = `addEventListener("message", (event) => event.waitUntil(
    tryCalls("/model/", globalThis.options).then((answers) => event.source.postMessage(answers))));`;
  const dist = "/node_modules/slimvit/dist";
  const asServed = `import { SlimViT, SlimViTError } from "${dist}/index.js";\n${CALLS}\n`;
  const host = `import { createHost } from "${dist}/worker.js";\nglobalThis.options = { host: createHost };\n`;
  writeFileSync(join(folder, "page.js"), asServed);
  writeFileSync(join(folder, "plain-sw.js"), asServed + serviceWorker);
  writeFileSync(join(folder, "host-sw.js"), host + asServed + serviceWorker);
  const bundled = `import { SlimViT, SlimViTError } from "slimvit";\n${CALLS}\n`;
  for (const [name, script] of [
    ["bundled-sw.js", bundled + serviceWorker],
    ["bundled-page.js", bundled],
  ]) {
    writeFileSync(join(folder, "entry.js"), script);
    await build({ entryPoints: [join(folder, "entry.js")], bundle: true, format: "iife", outfile: join(folder, name) });
  }
  writeFileSync(
    join(folder, "disk.html"),
    '<!doctype html><input type="file" multiple><script src="bundled-page.js"></script>',
  );
  writeFileSync(
    join(folder, "page.html"),
    '<!doctype html><link rel="icon" href="data:,"><script type="module" src="page.js"></script>',
  );
  writeFileSync(join(folder, "framed.html"), '<!doctype html><script src="bundled-page.js"></script>');
  const files = sirv(folder, { dev: true });
  server = createServer((request, response) => {
    for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
    response.setHeader("Access-Control-Allow-Origin", "*");
    files(request, response, () => void response.writeHead(404).end());
  });
  origin = await listen(server);
  browser = await chromium.launch({
    executablePath: findChromium(),
    args: ["--no-sandbox", "--disable-quic", "--disable-background-networking"],
  });
});
afterAll(async () => {
  await browser?.close();
  server?.close();
  rmSync(folder, { recursive: true, force: true });
});

async function open(url: string, work: (page: Page) => Promise<unknown>): Promise<Answers> {
  const page = await browser.newPage();
  try {
    await page.goto(url);
    return (await work(page)) as Answers;
  } finally {
    await page.close();
    headers = {};
  }
}

declare global {
  var tryCalls: (source: unknown, options?: object) => Promise<object>;
}

describe("in a service worker", () => {
  const ask = (script: string, type: "module" | "classic") =>
    open(`${origin}/page.html`, (page) =>
      page.evaluate(
        async ([script, type]) => {
          const options = { type: type as WorkerType, scope: `/${script}/` };
          const { installing, active } = await navigator.serviceWorker.register(`/${script}`, options);
          const worker = installing ?? active!;
          await new Promise<void>((resolve) => {
            const look = () => worker.state === "activated" && resolve();
            worker.onstatechange = look;
            look();
          });
          return new Promise((resolve) => {
            navigator.serviceWorker.addEventListener("message", ({ data }) => resolve(data));
            navigator.serviceWorker.startMessages();
            worker.postMessage("go");
          });
        },
        [script, type],
      ),
    );

  test("whose script is one file, every call works in its own thread", async () => {
    expect(await ask("bundled-sw.js", "classic")).toMatchObject(ALL);
  });

  test("that imports the package's files, load, classify and embed work with host: createHost; the rest is refused", async () => {
    const noLater = refused("unsupported", /service worker.*[Bb]undle/i);
    expect(await ask("host-sw.js", "module")).toMatchObject({
      ...ALL,
      classifyAll: noLater,
      stream: noLater,
      teach: noLater,
      reference: noLater,
    });
  });

  test("that imports them and passes no host, load is refused, with what helps", async () => {
    expect(await ask("plain-sw.js", "module")).toEqual({
      load: refused("unsupported", /Bundle its script into one file.*host: createHost.*slimvit\/worker\.js/),
    });
  });
});

describe("on a page that was opened from the disk", () => {
  const here = () => `file://${join(folder, "disk.html")}`;

  test("picked files and an address are loaded by a script of one file", async () => {
    const { reference, teach, ...calls } = { ...ALL };
    const picked = await open(here(), async (page) => {
      const files = ["slimvit.json", "model.f16.safetensors"].map((name) => join(folder, "model", name));
      await page.setInputFiles("input", files);
      return page.evaluate(() => tryCalls([...document.querySelector("input")!.files!]));
    });
    expect(picked).toMatchObject(calls);
    // They need files of their own, which such a script has not.
    expect(picked).toMatchObject({
      reference: refused("unsupported", /engine-reference\.js has no file of its own.*engineUrls/),
      teach: refused("unsupported", /teach\.js has no file of its own.*engineUrls/),
    });
    expect(await open(here(), (page) => page.evaluate((url) => tryCalls(url), `${origin}/model/`))).toMatchObject(
      calls,
    );
  });

  test("a folder beside it is refused at once, with what helps", async () => {
    const { load } = await open(here(), (page) => page.evaluate(() => tryCalls("model/")));
    expect(load).toEqual(refused("unsupported", /^file:.*model\/: a page cannot read the disk\. Serve .*<input>/));
  });
});

test("in a sandboxed frame without an origin, a script of one file has its worker", async () => {
  const answers = await open(`${origin}/page.html`, async (page) => {
    await page.setContent(`<iframe sandbox="allow-scripts" src="${origin}/framed.html"></iframe>`);
    const frame = await (await page.waitForSelector("iframe")).contentFrame();
    await frame!.waitForFunction(() => "tryCalls" in globalThis);
    return frame!.evaluate((url) => tryCalls(url), `${origin}/model/`);
  });
  expect(answers).toMatchObject({ load: "simd", classify: LABEL, classifyAll: LABEL });
});

describe("where Trusted Types are required", () => {
  const POLICY =
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; require-trusted-types-for 'script'";
  const visit = (names: string, options: object, own?: string) => {
    headers = {
      "Content-Security-Policy": `${POLICY}; ${names}`,
      "Cross-Origin-Opener-Policy": "same-origin",
      "Cross-Origin-Embedder-Policy": "require-corp",
    };
    return open(`${origin}/page.html`, async (page) => {
      await page.waitForFunction(() => "tryCalls" in globalThis);
      return page.evaluate(
        ([options, own]) => {
          const { trustedTypes } = globalThis as unknown as {
            trustedTypes: { createPolicy(name: string, rules: object): { createScriptURL(url: string): object } };
          };
          const make = (name: string) => trustedTypes.createPolicy(name, { createScriptURL: (url: string) => url });
          const workerUrl = own && make(own as string).createScriptURL("/node_modules/slimvit/dist/worker.js");
          return tryCalls("/model/", { ...(options as object), ...(workerUrl && { workerUrl }) });
        },
        [options, own] as const,
      );
    });
  };

  test("our policy, allowed by its name, starts the worker and its threads", async () => {
    expect(await visit("trusted-types slimvit", { threads: 2 })).toMatchObject({ ...ALL, threads: 2 });
  });

  test("a TrustedScriptURL of the page's own is taken as workerUrl; threads then need our policy too", async () => {
    expect(await visit("trusted-types mine", { threads: 2 }, "mine")).toMatchObject({ ...ALL, threads: 1 });
    expect(await visit("trusted-types mine slimvit", { threads: 2 }, "mine")).toMatchObject({ ...ALL, threads: 2 });
  });

  test("without either, the error says what to allow", async () => {
    expect(await visit("trusted-types 'none'", {})).toEqual({
      load: refused("unsupported", /Trusted Types.*trusted-types slimvit.*TrustedScriptURL/),
    });
  });
});
