/** A real headless browser and a page of our own origin, for what only a browser can measure. */
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
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
  close(): Promise<void>;
}

/**
 * @param mounts folders by the path that serves them, e.g. { "/dist": "…/dist" }
 * @param isolated with the headers that bring SharedArrayBuffer and threads
 * @param flags more of Chromium's
 * @param seen told of each path that is asked for
 * @param kept mounts whose files the browser may cache, as a site's code is; of others it asks for every time
 */
export async function openPage(
  mounts: Record<string, string>,
  isolated = true,
  flags: string[] = [],
  seen: (path: string) => void = () => {},
  kept: string[] = [],
): Promise<BrowserPage> {
  const { findChromium } = await import("../../scripts/setup-chromium.mjs");
  const executablePath = findChromium();
  if (!executablePath)
    throw new SlimViTError("unsupported", "No Chromium was found. Install one, or set CHROME_PATH to its executable.");
  const server = await serve(mounts, isolated, seen, kept);
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const browser = await chromium.launch({ executablePath, args: [...FLAGS, ...flags] });
  const page = await browser.newPage();
  await page.goto(`${origin}/`);
  return {
    page,
    browser,
    origin,
    async close() {
      await browser.close();
      server.close();
    },
  };
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
