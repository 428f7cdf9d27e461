/** The packed tarball as its users have it: every bundler without configuration, a plain page, and strict CSPs. */
import { createHash } from "node:crypto";
import { cpSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type App, BUNDLERS, buildApp, familyFolder, makeApp, programFor, warningsIn } from "../consumers/apps.ts";
import { ANSWER, exampleText, startServer, Visitor } from "../consumers/visitor.ts";
import { ROOT } from "../packages/packed.ts";

let visitor: Visitor;
/** of the apps, by name */
const folders: Record<string, string> = {};

beforeAll(async () => {
  visitor = await Visitor.open();
});
afterAll(async () => {
  await visitor?.close();
  for (const folder of Object.values(folders)) rmSync(folder, { recursive: true, force: true });
});

/** @returns what is served */
function siteOf(name: string): string {
  return join(folders[name], BUNDLERS[name].dist);
}

describe("from the packed tarball, without any configuration", () => {
  test.each(Object.keys(BUNDLERS))("%s builds without a warning, and the page gives a label", async (name) => {
    folders[name] = makeApp(BUNDLERS[name]);
    expect(warningsIn(buildApp(BUNDLERS[name], folders[name]))).toEqual([]);
    const { answer, errors } = await visitor.visit(siteOf(name));
    expect({ answer, errors }).toEqual({ answer: expect.stringMatching(ANSWER), errors: [] });
  });

  test.each(["vite 5", "vite 6", "vite 7", "vite 8"])("%s's development server", async (name) => {
    const app = BUNDLERS[name];
    const folder = makeApp(app);
    cpSync(join(visitor.folder, "models"), join(folder, "public/models"), { recursive: true });
    const command = join(familyFolder(app), "node_modules", app.build[0]);
    const server = await startServer(programFor(app), [command, "--host", "127.0.0.1", "--port", "0"], folder);
    try {
      const { answer, errors } = await visitor.visitAt(server.url);
      expect({ answer, errors }).toEqual({ answer: expect.stringMatching(ANSWER), errors: [] });
      expect(warningsIn(server.output())).toEqual([]);
    } finally {
      await server.stop();
      rmSync(folder, { recursive: true, force: true });
    }
  });

  test("a picture that is picked before the script has come is labelled", async () => {
    expect((await visitor.visit(siteOf("esbuild with splitting"), { early: true })).answer).toMatch(ANSWER);
  });

  test("examples/plain-html", async () => {
    const app: App = { ...BUNDLERS["vite 8"], files: {} };
    const folder = (folders["plain-html"] = makeApp(app));
    cpSync(join(ROOT, "examples/plain-html"), folder, { recursive: true });
    for (const early of [false, true]) {
      const { answer, errors } = await visitor.visit(folder, { early });
      expect({ answer, errors }).toEqual({ answer: expect.stringMatching(ANSWER), errors: [] });
    }
  });
});

describe("under a Content-Security-Policy", () => {
  const SELF = "default-src 'self'; script-src 'self'";
  const SPLITS = ["vite 5", "vite 8", "webpack", "Rspack", "Rsbuild", "esbuild with splitting", "rollup"];

  test.each(SPLITS)("script-src 'self' 'wasm-unsafe-eval' is enough for %s", async (name) => {
    const { answer, errors } = await visitor.visit(siteOf(name), { csp: `${SELF} 'wasm-unsafe-eval'` });
    expect({ answer, errors }).toEqual({ answer: expect.stringMatching(/on simd$/), errors: [] });
  });

  test.each(SPLITS)("without 'wasm-unsafe-eval' the plain loops answer, from a file of their own: %s", async (name) => {
    expect((await visitor.visit(siteOf(name), { csp: SELF })).answer).toMatch(/on reference$/);
  });

  test("Parcel needs the hash of the import map that it writes into the page, or a browserslist with which it writes none", async () => {
    const site = siteOf("Parcel");
    const [, map] = readFileSync(join(site, "index.html"), "utf8").match(/<script type="?importmap"?>(.*?)<\/script>/)!;
    const hash = `'sha256-${createHash("sha256").update(map).digest("base64")}'`;
    const csp = `${SELF} 'wasm-unsafe-eval'`;
    expect((await visitor.visit(site, { csp: `${csp} ${hash}` })).answer).toMatch(/on simd$/);
    expect((await visitor.visit(site, { csp: `${SELF} ${hash}` })).answer).toMatch(/on reference$/);

    const guide = readFileSync(join(ROOT, "docs/guides/security.md"), "utf8");
    const [line] = guide.match(/"browserslist": "[^"]*"/)!;
    const { files, ...app } = BUNDLERS.Parcel;
    const parcel = { ...app, files: { ...files, "package.json": `{ "private": true, "type": "module", ${line} }` } };
    const folder = (folders["Parcel with a browserslist"] = makeApp(parcel));
    buildApp(parcel, folder);
    expect((await visitor.visit(join(folder, parcel.dist), { csp })).answer).toMatch(/on simd$/);
  });

  test("one file of everything needs worker-src blob:, or worker.js copied and workerUrl", async () => {
    const wasm = `${SELF} 'wasm-unsafe-eval'`;
    const site = siteOf("esbuild into one file");
    expect((await visitor.visit(site, { csp: `${wasm}; worker-src 'self' blob:` })).answer).toMatch(/on simd$/);
    expect((await visitor.visit(site, { csp: `${wasm}; worker-src 'self'` })).answer).toMatch(
      /worker did not start.*workerUrl/,
    );
    const named = BUNDLERS["esbuild into one file"];
    const main = exampleText("vite/main.js").replace('slim/")', 'slim/", { workerUrl: "/worker.js" })');
    const folder = (folders["esbuild, workerUrl"] = makeApp({ ...named, files: { ...named.files, "main.js": main } }));
    buildApp(named, folder);
    cpSync(join(folder, "node_modules/slimvit/dist/worker.js"), join(folder, named.dist, "worker.js"));
    expect((await visitor.visit(join(folder, named.dist), { csp: `${wasm}; worker-src 'self'` })).answer).toMatch(
      /on simd$/,
    );
  });
});
