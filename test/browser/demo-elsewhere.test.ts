/** The demo's main path in Firefox and in WebKit: the first answer, another picture, the comparison with dense. */
import type { Server } from "node:http";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { serveDemo } from "../../demo/serve.mjs";
import { type OtherBrowser, openFirefox, openWebKit } from "./webdriver.ts";

/** Runs in the page: the first answer, a click on a sample, and the dense model beside the slim one. */
const VISIT = `
  const text = (selector) => document.querySelector(selector).textContent;
  const until = async (selector, pattern) => {
    const end = performance.now() + 60_000;
    while (!pattern.test(text(selector)) && performance.now() < end) await new Promise((resolve) => setTimeout(resolve, 50));
    return text(selector);
  };
  const ms = await until("#ms", /\\d ms$/);
  const first = [text("#verdict"), ms, text("#megabytes"), text("#first-status .error"), text("#picture-error")];
  document.querySelector("[data-sample=dalmatian]").click();
  const second = await until("#verdict", /^dalmatian/);
  document.querySelector("#compare").click();
  const comparison = await until("#comparison", /as fast/);
  return { first, second, comparison };`;

describe.each([
  ["Firefox", openFirefox],
  ["WebKit", openWebKit],
])("in %s", (_, open) => {
  let browser: OtherBrowser;
  let served: { server: Server; url: string };
  beforeAll(async () => {
    [browser, served] = await Promise.all([open(), serveDemo()]);
  });
  afterAll(async () => {
    await browser?.close();
    served.server.closeAllConnections();
    served.server.close();
  });

  test("the page answers on arrival, answers a click, and compares", async () => {
    const said = (await browser.runIn(served.url, VISIT)) as { first: string[]; second: string; comparison: string };
    console.log(`${browser.name}: ${said.first.join(", ")}; ${said.comparison}`);
    expect(said.first).toEqual(["giant panda", expect.stringMatching(/^[\d.]+ ms$/), "5.3 MB", "", ""]);
    expect(said.second).toBe("dalmatian");
    expect(said.comparison).toMatch(/^[\d.]+ × as fast as dense.*with int8 weights against f16\. Both models agree\.$/);
  });
});
