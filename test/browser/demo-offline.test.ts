import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sirv from "sirv";
import { expect, test } from "vitest";
import { buildDemo } from "../../demo/build.mjs";
import { listen } from "../servers.ts";
import { expectBoth, expectVerdict, openDemo } from "./demo.ts";

test("the second visit works without a network, samples included", async () => {
  const demo = await openDemo();
  try {
    await expectBoth(demo.page);
    await demo.page.waitForSelector("#offline:not([hidden])", { timeout: 60_000 });
    demo.server.closeAllConnections();
    await new Promise((resolve) => demo.server.close(resolve));
    await demo.page.reload();
    await expectBoth(demo.page);
    await demo.page.click("[data-sample=dalmatian]"); // never shown before
    await expectVerdict(demo.page, /dalmatian/);
  } finally {
    await demo.close();
  }
});

test("a network cut while a model loads is explained, and trying again goes on", async () => {
  const demo = await openDemo({ url: "about:blank" });
  let isCut = true;
  let sent = 0; // over all tries: the package resumes
  demo.server.prependListener("request", ({ url }, response) => {
    if (!url?.includes(".safetensors")) return;
    const write = response.write.bind(response);
    response.write = (chunk: Uint8Array, ...rest: never[]) => {
      sent += chunk.length;
      if (isCut && sent > 2e6) response.socket?.destroy();
      return write(chunk, ...rest);
    };
  });
  try {
    await demo.page.goto(demo.url);
    await expect
      .poll(() => demo.page.textContent("#first-status .error"), { timeout: 60_000 })
      .toMatch(/model\.int8\.safetensors\.zz.*(again|broke)/);
    await expectVerdict(demo.page, /could not be loaded/);
    isCut = false;
    await demo.page.click("#first-status button");
    await expectBoth(demo.page);
    await expectVerdict(demo.page, /giant panda/);
  } finally {
    await demo.close();
  }
});

test("progress is shown in bytes", async () => {
  const demo = await openDemo({ url: "about:blank" });
  try {
    await demo.page.addInitScript(() => {
      const seen: string[] = [];
      Object.assign(globalThis, { seen });
      new MutationObserver(() => {
        const words = document.querySelector("#arriving .loading p")?.textContent;
        if (words && words !== seen.at(-1)) seen.push(words);
      }).observe(document, { subtree: true, childList: true, characterData: true });
    });
    await demo.page.goto(demo.url);
    await expectBoth(demo.page);
    const seen = await demo.page.evaluate(() => (globalThis as unknown as { seen: string[] }).seen);
    expect(seen.join("\n")).toMatch(/\d\.\d MB of \d+\.\d MB/);
  } finally {
    await demo.close();
  }
});

test("npm run build:demo gives a folder that works under a sub-path of a plain static server", async () => {
  const folder = mkdtempSync(join(tmpdir(), "slimvit-demo-"));
  buildDemo(join(folder, "some/where"));
  const files = sirv(folder, { dev: true });
  const server: Server = createServer((request, response) =>
    files(request, response, () => void response.writeHead(404).end()),
  );
  const url = `${await listen(server)}/some/where/`;
  const demo = await openDemo({ url });
  try {
    await expectBoth(demo.page);
    await expectVerdict(demo.page, /giant panda/);
    await demo.page.check("#engine [value=onnx-wasm]", { force: true });
    await expect.poll(() => demo.page.textContent("#chosen"), { timeout: 120_000 }).toMatch(/^Running onnx-wasm/);
    await expectBoth(demo.page);
    expect(demo.complaints).toEqual([]);
  } finally {
    await demo.close();
    server.closeAllConnections();
    server.close();
    rmSync(folder, { recursive: true, force: true });
  }
});
