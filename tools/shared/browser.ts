/** A real headless browser with a page of our own origin, for measurements that need one. */
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Browser, chromium, type Page } from "playwright-core";
import sirv from "sirv";
import { SlimViTError } from "../../src/errors.ts";

/** Quiet and offline. */
const FLAGS = [
  "--no-sandbox",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/**
 * WebGPU on the CPU: right results at no speed. Workgroup memory is zeroed by a loop, as where Vulkan lacks the extension
 * that does it: SwiftShader unrolls the extension's zeros, and took ten times as long to compile a matrix product.
 */
export const SWIFTSHADER = [
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  "--disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension",
];

export interface BrowserPage {
  page: Page;
  browser: Browser;
  origin: string;
  /** Another page of that origin, in a process of its own. */
  visit(): Promise<Page>;
  close(): Promise<void>;
}

/**
 * @param mounts folders by the path that serves them, e.g. { "/dist": "…/dist" }
 * @param isolated with the headers that bring SharedArrayBuffer and threads
 * @param flags more of Chromium's
 * @param seen called with each path that is requested
 * @param kept mounts whose files the browser may cache, as a site's code is; others are requested every time. With any,
 * the browser has a profile on disk, where it also keeps compiled code
 * @param withWebnn in a Chromium that has WebNN
 */
export async function openPage(
  mounts: Record<string, string>,
  isolated = true,
  flags: string[] = [],
  seen: (path: string) => void = () => {},
  kept: string[] = [],
  withWebnn = false,
): Promise<BrowserPage> {
  const { executablePath, needed } = await findBrowser(withWebnn);
  const server = await serve(mounts, isolated, seen, kept);
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const how = { executablePath, args: [...FLAGS, ...needed, ...flags] };
  const profile = kept.length ? mkdtempSync(join(tmpdir(), "slimvit-profile-")) : undefined;
  const context = profile
    ? await chromium.launchPersistentContext(profile, how)
    : await (await chromium.launch(how)).newContext();
  const visit = async () => {
    const page = await context.newPage();
    await page.goto(`${origin}/`);
    return page;
  };
  const browser = context.browser()!;
  return {
    page: await visit(),
    browser,
    origin,
    visit,
    async close() {
      await context.close();
      await browser.close();
      server.close();
      if (profile) rmSync(profile, { recursive: true, force: true });
    },
  };
}

/** @throws SlimViTError `unsupported` */
async function findBrowser(withWebnn: boolean): Promise<{ executablePath: string; needed: string[] }> {
  const { findChromium } = await import("../../scripts/setup-chromium.mjs");
  const { findWebnnChromium, WEBNN_FLAGS } = await import("../../scripts/setup-webnn.mjs");
  const executablePath = withWebnn ? findWebnnChromium() : findChromium();
  if (executablePath) return { executablePath, needed: withWebnn ? WEBNN_FLAGS : [] };
  const which = withWebnn ? ["Chromium with WebNN", "WEBNN_CHROME_PATH"] : ["Chromium", "CHROME_PATH"];
  throw new SlimViTError(
    "unsupported",
    `No ${which[0]} was found. Install one, or set ${which[1]} to its executable; in a clone "npm run setup" does.`,
  );
}

function serve(
  mounts: Record<string, string>,
  isolated: boolean,
  seen: (path: string) => void,
  kept: string[],
): Promise<Server> {
  const handlers = Object.entries(mounts).map(([prefix, dir]) => ({
    prefix: `${prefix}/`,
    handle: sirv(dir, { dev: true }),
  }));
  const server = createServer((request, response) => {
    if (isolated) {
      response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
      response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
    }
    const notFound = () => {
      response.statusCode = 404;
      response.end();
    };
    if (request.url === "/") {
      response.setHeader("Content-Type", "text/html");
      return response.end("<!doctype html><title>slimvit</title>");
    }
    seen(request.url!);
    const mount = handlers.find(({ prefix }) => request.url?.startsWith(prefix));
    if (!mount) return notFound();
    if (kept.includes(mount.prefix.slice(0, -1))) response.setHeader("Cache-Control", "public, max-age=3600");
    request.url = request.url!.slice(mount.prefix.length - 1);
    mount.handle(request, response, notFound);
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}
