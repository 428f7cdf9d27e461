/** A server for built apps, and a browser that opens them, picks a picture and reads the answer. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Browser, chromium } from "playwright-core";
import sirv from "sirv";
import { findChromium } from "../../scripts/setup-chromium.mjs";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { tinySlimModel } from "../browser/page.ts";
import { ROOT } from "../packages/packed.ts";
import { listen } from "../servers.ts";

export const PICTURE = join(ROOT, "demo/samples/umbrella.jpg");
/** What the examples write of the tiny model. */
export const ANSWER = /^a (bananas|cherries|plums), \d+ ms on (\w+)$/;

export interface Visit {
  /** what the page says of the picture */
  answer: string;
  /** errors in the console, scripts' and the browser's own, such as a file that is not there */
  errors: string[];
  /** paths of the files that the page and its workers asked for, in order */
  asked: string[];
}

export interface VisitOptions {
  csp?: string;
  /** at the end of the page's address */
  search?: string;
  /** the picture is picked before the page's script has come */
  early?: boolean;
}

export class Visitor {
  private site = "";
  private policy = "";

  private constructor(
    /** holds models/deit-tiny-slim, a tiny model in the place of the examples' */
    readonly folder: string,
    readonly origin: string,
    readonly browser: Browser,
    private readonly server: Server,
  ) {}

  static async open(): Promise<Visitor> {
    const folder = mkdtempSync(join(tmpdir(), "slimvit-consumers-"));
    const { draft, tensors } = tinySlimModel();
    const accuracy = [{ data: "fruit", split: "test", top1: 0.9, top5: 1, n: 10, engine: "simd", dtype: "f16" }];
    writeModelFolder(join(folder, "models/deit-tiny-slim"), { ...draft, metrics: { accuracy } }, tensors, ["f16"]);
    const models = sirv(folder, { dev: true });
    const server = createServer((request, response) => {
      if (visitor.policy) response.setHeader("Content-Security-Policy", visitor.policy);
      const notFound = () => void response.writeHead(404).end();
      if (request.url === "/favicon.ico") return void response.writeHead(204).end();
      if (request.url!.startsWith("/models/")) return models(request, response, notFound);
      sirv(visitor.site, { dev: true })(request, response, notFound);
    });
    const origin = await listen(server);
    const browser = await chromium.launch({
      executablePath: findChromium(),
      args: ["--no-sandbox", "--disable-quic", "--disable-background-networking"],
    });
    const visitor = new Visitor(folder, origin, browser, server);
    return visitor;
  }

  /** @param site folder of a built app */
  visit(site: string, { csp = "", search = "", early }: VisitOptions = {}): Promise<Visit> {
    this.serve(site, csp);
    return this.visitAt(`${this.origin}/${search}`, early);
  }

  /** From now on, at `origin`. */
  serve(site: string, csp = ""): void {
    this.site = site;
    this.policy = csp;
  }

  async visitAt(url: string, early = false): Promise<Visit> {
    const page = await this.browser.newPage();
    const errors: string[] = [];
    const asked: string[] = [];
    page.on("pageerror", (error) => errors.push(error.message));
    page.on("console", (message) => {
      const isIcon = message.location().url.endsWith("favicon.ico");
      if (message.type() === "error" && !isIcon) errors.push(`${message.text()} (${message.location().url})`);
    });
    page.on("request", (request) => asked.push(new URL(request.url()).pathname));
    try {
      let pass = () => {};
      const picked = new Promise<void>((resolve) => {
        pass = resolve;
      });
      if (early) await page.route("**/*.js", (route) => picked.then(() => route.continue()), { times: 1 });
      await page.goto(url, { waitUntil: early ? "commit" : "load" });
      // A page that was rendered on a server shows its input before its script has come.
      if (!early) await page.waitForLoadState("networkidle");
      await page.locator("input[type=file]:enabled").setInputFiles(PICTURE);
      pass();
      const output = page.locator("output:not(:empty)");
      await output.waitFor({ state: "attached", timeout: 120_000 });
      return { answer: (await output.textContent())!.trim(), errors, asked };
    } finally {
      await page.close();
    }
  }

  async close(): Promise<void> {
    await this.browser.close();
    this.server.close();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** @returns a server that has been started by a command, once it has printed its address */
export function startServer(
  program: string,
  args: string[],
  cwd: string,
  env: Record<string, string> = {},
): Promise<{ url: string; output: () => string; stop: () => Promise<void> }> {
  const started: ChildProcess = spawn(program, args, {
    cwd,
    env: { ...process.env, NO_COLOR: "1", FORCE_COLOR: "0", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const ended = new Promise<void>((resolve) => started.on("exit", () => resolve()));
  let text = "";
  const stop = async () => {
    started.kill();
    await ended;
  };
  return new Promise((resolve, reject) => {
    const read = (data: Buffer) => {
      text += data;
      const url = text.match(/http:\/\/(127\.0\.0\.1|localhost):\d+/)?.[0];
      if (url) resolve({ url: `${url}/`, output: () => text, stop });
    };
    started.stdout!.on("data", read);
    started.stderr!.on("data", read);
    started.on("exit", () => reject(new Error(`The server ended: ${text}`)));
  });
}

export const exampleText = (path: string) => readFileSync(join(ROOT, "examples", path), "utf8");
