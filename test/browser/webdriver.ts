/** Firefox by WebDriver BiDi, WebKit by its own driver's WebDriver: as much of them as running a script in a page takes. */
import { type ChildProcess, spawn } from "node:child_process";
import puppeteer from "puppeteer-core";
import { findFirefox, findWebKit } from "../../scripts/setup-browsers.mjs";

export interface OtherBrowser {
  /** name and version as it says */
  name: string;
  /** Opens the address and runs `script`, the body of an async function; @returns what it returns */
  runIn(url: string, script: string): Promise<unknown>;
  close(): Promise<void>;
}

export async function openFirefox(): Promise<OtherBrowser> {
  const executablePath = findFirefox();
  if (!executablePath) throw new Error('No Firefox was found: run "npm run setup", or name one in FIREFOX_PATH.');
  const browser = await puppeteer.launch({ browser: "firefox", executablePath, protocolTimeout: 300_000 });
  return {
    name: await browser.version(),
    async runIn(url, script) {
      const page = await browser.newPage();
      try {
        await page.goto(url);
        return await page.evaluate(`(async () => { ${script} })()`);
      } finally {
        await page.close();
      }
    },
    close: () => browser.close(),
  };
}

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
    await call("POST", `${session}/timeouts`, { script: 300_000 });
    return {
      name: `WebKitGTK ${has.browserVersion}`,
      async runIn(url, script) {
        await call("POST", `${session}/url`, { url });
        const wrapped = `const done = arguments[0]; (async () => { ${script} })().then(done, (error) => done(String(error)));`;
        return call("POST", `${session}/execute/async`, { script: wrapped, args: [] });
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
async function answering(ask: () => Promise<unknown>): Promise<void> {
  for (let left = 150; ; left--) {
    try {
      await ask();
      return;
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
