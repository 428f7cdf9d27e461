/** The packed package in workerd, the runtime of Cloudflare Workers, which compiles no WebAssembly. A missing runtime fails. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { build } from "esbuild";
import sirv from "sirv";
import { afterAll, beforeAll, expect, test } from "vitest";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { tinySlimModel } from "../browser/page.ts";
import { freePort, listen } from "../servers.ts";
import { installPacked, ROOT } from "./packed.ts";

const WORKERD = join(ROOT, "test/consumers/node_modules/@cloudflare/workerd-linux-64/bin/workerd");

const MAIN = `import { SlimViT, SlimViTError } from "slimvit";
const pixels = () => ({ data: new Uint8Array(40 * 40 * 4).fill(70), width: 40, height: 40 });
export default {
  async fetch(request) {
    try {
      const { model, ...options } = await request.json();
      const vit = await SlimViT.load(model, options);
      const { classes } = await vit.classify(pixels());
      const batch = [];
      for await (const { result } of vit.classifyAll([pixels(), pixels()])) batch.push(result.classes[0].label);
      vit.dispose();
      return Response.json({ label: classes[0].label, batch, engine: vit.info.engine, tried: vit.info.tried });
    } catch (error) {
      return Response.json({ ours: error instanceof SlimViTError, code: error.code, message: error.message });
    }
  },
};
`;

let folder: string;
let models: Server;
let modelUrl: string;
beforeAll(async () => {
  if (!existsSync(WORKERD)) throw new Error(`${WORKERD} is missing; run "npm run setup".`);
  folder = mkdtempSync(join(tmpdir(), "slimvit-workerd-"));
  installPacked(folder, "slimvit");
  writeFileSync(join(folder, "main.js"), MAIN);
  await build({ entryPoints: [join(folder, "main.js")], bundle: true, format: "esm", outfile: join(folder, "one.js") });
  const { draft, tensors } = tinySlimModel();
  writeModelFolder(join(folder, "model"), draft, tensors, ["f16"]);
  models = createServer(sirv(folder, { dev: true }));
  modelUrl = `${await listen(models)}/model/`;
});
afterAll(() => {
  models?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** @param modules files by their names in the worker; the first is its entry */
async function serve(modules: [name: string, file: string][], work: (url: string) => Promise<void>): Promise<void> {
  const port = await freePort();
  const listed = modules.map(([name, file]) => `(name = "${name}", esModule = embed "${relative(folder, file)}")`);
  writeFileSync(
    join(folder, "config.capnp"),
    `using Workerd = import "/workerd/workerd.capnp";
    const config :Workerd.Config = (
      services = [(name = "main", worker = .main), (name = "internet", network = (allow = ["public", "private"]))],
      sockets = [(name = "http", address = "127.0.0.1:${port}", http = (), service = "main")]
    );
    const main :Workerd.Worker = (compatibilityDate = "2026-11-01", modules = [${listed.join()}]);`,
  );
  const runtime: ChildProcess = spawn(WORKERD, ["serve", "config.capnp"], { cwd: folder, stdio: "inherit" });
  const ended = new Promise((resolve) => runtime.on("exit", resolve));
  try {
    await work(`http://127.0.0.1:${port}/`);
  } finally {
    runtime.kill();
    await ended;
  }
}

async function ask(url: string, options: object): Promise<unknown> {
  for (let attempt = 0; ; attempt++) {
    try {
      const response = await fetch(url, { method: "POST", body: JSON.stringify({ model: modelUrl, ...options }) });
      return await response.json();
    } catch (error) {
      if (attempt === 100) throw error; // it has not started yet
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

const dist = () => join(folder, "node_modules/slimvit/dist");
const served = (): [string, string][] =>
  readdirSync(dist())
    .filter((name) => name.endsWith(".js"))
    .map((name) => [name === "index.js" ? "slimvit" : name, join(dist(), name)]);

test.each<[string, () => [string, string][]]>([
  ["by its files", () => [["main.js", join(folder, "main.js")], ...served()]],
  ["bundled into one file", () => [["main.js", join(folder, "one.js")]]],
])("%s, the plain loops answer, and info says why", async (_, modules) => {
  await serve(modules(), async (url) => {
    const label = expect.stringMatching(/^a (bananas|cherries|plums)$/);
    const answer = (await ask(url, {})) as { tried: object[] };
    expect(answer).toMatchObject({ engine: "reference", label, batch: [label, label] });
    expect(answer.tried).toContainEqual({
      engine: "simd",
      reason: expect.stringMatching(/kernels do not compile here/),
    });
    expect(await ask(url, { engine: "simd" })).toMatchObject({
      ours: true,
      code: "unsupported",
      message: expect.stringMatching(/kernels do not compile here/),
    });
    expect(await ask(url, { model: "/models/mine/" })).toMatchObject({ ours: true, code: "bad-model" });
  });
});
