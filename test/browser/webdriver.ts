/** Firefox by Marionette, WebKit by its own driver: as much of WebDriver as running a script in a page takes. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findFirefox, findWebKit } from "../../scripts/setup-browsers.mjs";

export interface OtherBrowser {
  /** name and version as it says */
  name: string;
  /** Opens the address and, when the page has loaded, runs `script`, the body of an async function; @returns what it returns */
  runIn(url: string, script: string): Promise<unknown>;
  close(): Promise<void>;
}

/** A script that takes longer has stopped; a busy machine can be twenty times slower than a quiet one. */
const SCRIPT_MS = 300_000;

/**
 * Not by WebDriver BiDi: for it, Firefox (153) listens to workers, and then `new Worker` in a worker now and then never
 * returns. The parent waits for the listeners on the condition on which the child's thread waits for events, of which one
 * is woken (dom/workers, WaitForIsDebuggerRegistered); a page that starts and ends such workers stops after some sixty.
 */
export async function openFirefox(): Promise<OtherBrowser> {
  const path = findFirefox();
  if (!path) throw new Error('No Firefox was found: run "npm run setup", or name one in FIREFOX_PATH.');
  const profile = mkdtempSync(join(tmpdir(), "slimvit-firefox-"));
  writeFileSync(join(profile, "user.js"), 'user_pref("marionette.port", 0);'); // it takes a free one, and tells
  const firefox = spawn(path, ["--marionette", "--headless", "--no-remote", "--profile", profile], { stdio: "ignore" });
  const end = async () => {
    await stop(firefox);
    rmSync(profile, { recursive: true, force: true, maxRetries: 10 });
  };
  try {
    const portFile = join(profile, "MarionetteActivePort");
    const call = await answering(async () => connectMarionette(Number(readFileSync(portFile, "utf8"))));
    const { capabilities } = (await call("WebDriver:NewSession", {})) as { capabilities: { browserVersion: string } };
    await call("WebDriver:SetTimeouts", { script: SCRIPT_MS });
    return {
      name: `Firefox ${capabilities.browserVersion}`,
      async runIn(url, script) {
        await call("WebDriver:Navigate", { url });
        const inPage = `window.eval(${JSON.stringify(`(async () => { ${script} })()`)})`; // not in Marionette's sandbox
        return call("WebDriver:ExecuteAsyncScript", { script: asyncScript(inPage), args: [], sandbox: null });
      },
      close: end,
    };
  } catch (error) {
    await end();
    throw error;
  }
}

/** Messages of both sides are JSON after its length: [0, id, command, parameters] and [1, id, error, result]. */
async function connectMarionette(port: number): Promise<(command: string, parameters: object) => Promise<unknown>> {
  const socket = await new Promise<Socket>((resolve, reject) => {
    const opening: Socket = connect(port, "127.0.0.1", () => resolve(opening)).once("error", reject);
  });
  const waiting = new Map<number, (error: unknown, result: unknown) => void>();
  let rest = Buffer.alloc(0);
  socket.on("data", (data) => {
    rest = Buffer.concat([rest, data]);
    for (;;) {
      const colon = rest.indexOf(":");
      const end = colon + 1 + Number(rest.subarray(0, colon));
      if (colon < 0 || rest.length < end) return;
      const message: unknown = JSON.parse(rest.toString("utf8", colon + 1, end));
      rest = rest.subarray(end);
      if (Array.isArray(message)) waiting.get(message[1])!(message[2], message[3]); // the first only greets
    }
  });
  socket.on("close", () => {
    for (const settle of waiting.values()) settle("the connection ended", undefined);
  });
  let last = 0;
  return (command, parameters) =>
    new Promise((resolve, reject) => {
      const id = ++last;
      waiting.set(id, (error, result) => {
        waiting.delete(id);
        if (error) reject(new Error(`Firefox, ${command}: ${JSON.stringify(error)}`));
        else resolve(isWrapped(result) ? result.value : result);
      });
      const text = JSON.stringify([0, id, command, parameters]);
      socket.write(`${Buffer.byteLength(text)}:${text}`);
    });
}

function isWrapped(result: unknown): result is { value: unknown } {
  return typeof result === "object" && result !== null && "value" in result;
}

/** @param promise an expression */
function asyncScript(promise: string): string {
  return `const done = arguments[0]; ${promise}.then(done, (error) => done(String(error)));`;
}

/**
 * WebKitGTK's driver (2.50.6) is done with a navigation while modules that the page's own import are still on their way:
 * none of the page's scripts has run then.
 */
const LOADED = `if (document.readyState !== "complete") await new Promise((go) => addEventListener("load", go, { once: true }));`;

export async function openWebKit(): Promise<OtherBrowser> {
  const found = findWebKit();
  if (!found) throw new Error('No WebKitGTK (WebKitWebDriver, MiniBrowser, Xvfb) was found: run "npm run setup".');
  const display = spawn(found.xvfb, ["-displayfd", "3", "-screen", "0", "1024x768x24", "-nolisten", "tcp"], {
    stdio: ["ignore", "ignore", "ignore", "pipe"],
  });
  const number = await new Promise<string>((resolve, reject) => {
    display.stdio[3]!.once("data", (data) => resolve(String(data).trim()));
    display.once("exit", () => reject(new Error("Xvfb ended")));
  });
  const port = 20_000 + (process.pid % 20_000); // the driver takes a number only
  const driver = spawn(found.driver, [`--port=${port}`, "--host=127.0.0.1"], {
    env: { ...process.env, DISPLAY: `:${number}`, GDK_BACKEND: "x11", WEBKIT_DISABLE_COMPOSITING_MODE: "1" },
    stdio: "ignore",
  });
  const call = async (method: string, path: string, body?: object) => {
    const options = { method, body: body && JSON.stringify(body) };
    const response = await fetch(`http://127.0.0.1:${port}${path}`, options);
    const { value } = (await response.json()) as { value: unknown };
    if (!response.ok) throw new Error(`WebKit, ${method} ${path}: ${JSON.stringify(value)}`);
    return value;
  };
  const end = async () => {
    await Promise.all([stop(driver), stop(display)]);
  };
  try {
    await answering(() => call("GET", "/status"));
    const options = { binary: found.miniBrowser, args: ["--automation"] };
    const capabilities = { alwaysMatch: { "webkitgtk:browserOptions": options } };
    const started = await call("POST", "/session", { capabilities });
    const { sessionId, capabilities: has } = started as { sessionId: string; capabilities: { browserVersion: string } };
    const session = `/session/${sessionId}`;
    await call("POST", `${session}/timeouts`, { script: SCRIPT_MS });
    return {
      name: `WebKitGTK ${has.browserVersion}`,
      async runIn(url, script) {
        await call("POST", `${session}/url`, { url });
        return call("POST", `${session}/execute/async`, {
          script: asyncScript(`(async () => { ${LOADED} ${script} })()`),
          args: [],
        });
      },
      async close() {
        await call("DELETE", session).catch(() => {});
        await end();
      },
    };
  } catch (error) {
    await end();
    throw error;
  }
}

/** Tries until it answers, for half a minute. */
async function answering<T>(ask: () => Promise<T>): Promise<T> {
  for (let left = 150; ; left--) {
    try {
      return await ask();
    } catch (error) {
      if (!left) throw error;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}

function stop(process: ChildProcess): Promise<void> {
  if (process.exitCode !== null || process.signalCode) return Promise.resolve();
  return new Promise((resolve) => {
    process.once("exit", () => resolve());
    process.kill();
  });
}
