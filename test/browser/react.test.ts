/** The hook of examples/react: an address that changes hands out no model that is freed already. */
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { buildApp, FRAMEWORKS, makeApp } from "../consumers/apps.ts";
import { Visitor } from "../consumers/visitor.ts";

/** Asks whatever model the hook gives, while it renders and afterwards, as apps do, and counts what is still unanswered. */
const APP = `import { useEffect, useState } from "react";
import { useSlimViT } from "./use-slimvit.js";

const seen = (globalThis.reactAnswers = []);
globalThis.reactPending = 0;
const pixels = { data: new Uint8Array(40 * 40 * 4).fill(77), width: 40, height: 40 };

function Picture({ url }) {
  const { vit, error } = useSlimViT(url);
  const ask = () => {
    if (error) seen.push([url, error.code]);
    if (!vit) return;
    globalThis.reactPending++;
    vit.classify(pixels)
      .then(() => seen.push([url, vit.info.name]), (failure) => seen.push([url, failure.code]))
      .finally(() => globalThis.reactPending--);
  };
  ask();
  useEffect(ask, [vit]);
  return <output>{vit?.info.name}</output>;
}

export function App() {
  const [{ url, isThere }, setState] = useState({ url: "/models/deit-tiny-slim/", isThere: true });
  globalThis.showModel = setState;
  return isThere && <Picture url={url} />;
}
`;

let visitor: Visitor;
let folder: string;
beforeAll(async () => {
  visitor = await Visitor.open();
  const other = join(visitor.folder, "models/other");
  cpSync(join(visitor.folder, "models/deit-tiny-slim"), other, { recursive: true });
  const manifest = JSON.parse(readFileSync(join(other, "slimvit.json"), "utf8"));
  writeFileSync(join(other, "slimvit.json"), JSON.stringify({ ...manifest, name: "other" }));
  const example = FRAMEWORKS["React, by vite"];
  const app = { ...example, files: { ...example.files, "src/app.jsx": APP } };
  folder = makeApp(app);
  buildApp(app, folder);
});
afterAll(async () => {
  await visitor?.close();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

declare global {
  var reactAnswers: [url: string, answer: string][];
  var reactPending: number;
  var showModel: (state: { url: string; isThere: boolean }) => void;
}

test("every answer is of the model whose address was given, and none is refused as disposed", async () => {
  const page = await visitor.browser.newPage();
  visitor.serve(join(folder, "dist"));
  const errors: string[] = [];
  page.on("pageerror", ({ message }) => errors.push(message));
  await page.goto(visitor.origin);
  const names = { "/models/deit-tiny-slim/": "tiny-slim", "/models/other/": "other" };
  const urls = Object.keys(names) as (keyof typeof names)[];
  const answered = () => page.evaluate(() => (globalThis.reactPending ? 0 : globalThis.reactAnswers.length));
  for (let round = 0; round < 6; round++) {
    const url = urls[round % 2];
    const before = await answered();
    await page.evaluate((url) => globalThis.showModel({ url, isThere: true }), url);
    await expect.poll(() => page.locator("output").textContent(), { timeout: 30_000 }).toBe(names[url]);
    // The next address would refuse a call that is still unanswered, because the hook frees the model then.
    await expect.poll(answered).toBeGreaterThanOrEqual(before + 2);
  }
  await page.evaluate(() => globalThis.showModel({ url: "/models/none/", isThere: true }));
  await expect.poll(() => page.evaluate(() => globalThis.reactAnswers.at(-1)![1]), { timeout: 30_000 }).toBe("network");
  const seen = await page.evaluate(() => globalThis.reactAnswers);
  const answers = seen.filter(([url]) => url in names);
  expect(answers.length).toBeGreaterThan(6);
  for (const [url, answer] of answers) expect(answer, url).toBe(names[url as keyof typeof names]);
  await page.evaluate((url) => globalThis.showModel({ url, isThere: false }), urls[0]);
  await expect.poll(() => page.workers().length).toBe(0); // the component frees what it has loaded
  expect(errors).toEqual([]);
  await page.close();
});
