/** The packed tarball in frameworks that build for themselves: the examples' and Nuxt, Astro, SvelteKit, Next.js. */
import { cpSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type App, buildApp, FRAMEWORKS, installInto, makeApp, warningsIn } from "../consumers/apps.ts";
import { ANSWER, startServer, Visitor } from "../consumers/visitor.ts";
import { ROOT } from "../packages/packed.ts";

let visitor: Visitor;
const folders: string[] = [];

beforeAll(async () => {
  visitor = await Visitor.open();
});
afterAll(async () => {
  await visitor?.close();
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

test.each(Object.keys(FRAMEWORKS))("%s builds without a warning, and the page gives a label", async (name) => {
  const app = FRAMEWORKS[name];
  const folder = makeApp(app);
  folders.push(folder);
  expect(warningsIn(buildApp(app, folder))).toEqual([]);
  const site = join(folder, app.dist);
  const { answer, errors } = await visitor.visit(site);
  expect({ answer, errors }).toEqual({ answer: expect.stringMatching(ANSWER), errors: [] });
  if (name === "Angular") {
    // What Angular's guide asks of its apps, and simd's kernels.
    const csp = "default-src 'self'; style-src 'self' 'unsafe-inline'; script-src 'self' 'wasm-unsafe-eval'";
    const strict = await visitor.visit(site, { csp });
    expect(strict).toMatchObject({ answer: expect.stringMatching(/on simd$/), errors: [] });
  }
});

describe.each([
  ["turbopack", "--turbopack"],
  ["webpack", "--webpack"],
])("examples/next, built by %s", (_, bundler) => {
  const consumers = join(ROOT, "test/consumers"); // Next.js refuses links that leave the folder of its lockfile
  const next = join(consumers, "node_modules/next/dist/bin/next");
  const env = { NEXT_TELEMETRY_DISABLED: "1" };
  let server: Awaited<ReturnType<typeof startServer>>;
  let output: string;

  beforeAll(async () => {
    mkdirSync(join(consumers, "build"), { recursive: true });
    const folder = mkdtempSync(join(consumers, "build/next-"));
    folders.push(folder);
    cpSync(join(ROOT, "examples/next"), folder, { recursive: true });
    cpSync(join(visitor.folder, "models"), join(folder, "public/models"), { recursive: true });
    installInto(folder);
    const app: App = { family: "", files: {}, build: ["next/dist/bin/next", "build", bundler], dist: "", env };
    output = buildApp(app, folder);
    server = await startServer(
      process.execPath,
      [next, "start", "--hostname", "127.0.0.1", "--port", "0"],
      folder,
      env,
    );
  });
  afterAll(() => server?.stop());

  test("the page imports slimvit on the server, without a warning, and classifies in the browser", async () => {
    expect(warningsIn(output)).toEqual([]);
    const { answer, errors } = await visitor.visitAt(server.url);
    expect({ answer, errors }).toEqual({ answer: expect.stringMatching(ANSWER), errors: [] });
  });

  test("a route on the server classifies pixels", async () => {
    const body = new Uint8Array(20 * 10 * 4).fill(90);
    const response = await fetch(`${server.url}label?width=20&height=10`, { method: "POST", body });
    expect([response.status, await response.text()]).toEqual([200, expect.stringMatching(ANSWER)]);
    const short = await fetch(`${server.url}label?width=21&height=10`, { method: "POST", body });
    expect([short.status, await short.text()]).toEqual([400, expect.stringContaining("21")]);
  });
});
