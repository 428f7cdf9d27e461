/** The shipped models' npm packages, packed: in apps of bundlers that serve their files, in Node, and behind a server in the CDN's place. */
import { execFileSync } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { BUNDLERS, buildApp, makeApp, warningsIn, withPage } from "../consumers/apps.ts";
import { exampleText, Visitor } from "../consumers/visitor.ts";
import { unpackModel } from "../packages/packed.ts";

const MODEL = "deit-tiny-caltech101-small";
const NAME = `slimvit-${MODEL}`;
const IMPORT = `import model from "${NAME}";\n`;
const LABEL = /^umbrella, \d+ ms on simd$/;

let visitor: Visitor;
const folders: string[] = [];
beforeAll(async () => {
  visitor = await Visitor.open();
  // As a CDN serves it: at name@version.
  unpackModel(MODEL, join(visitor.folder, "models", `${NAME}@0.1.0`));
});
afterAll(async () => {
  await visitor?.close();
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

function makeAppWith(main: string, bundler: string): string {
  const app = BUNDLERS[bundler];
  const [path, script] = "main.js" in app.files ? ["main.js", main] : ["src/index.js", withPage(main)];
  const folder = makeApp({ ...app, files: { ...app.files, [path]: script } });
  folders.push(folder);
  unpackModel(MODEL, join(folder, "node_modules", NAME));
  expect(warningsIn(buildApp(app, folder))).toEqual([]);
  return join(folder, app.dist);
}

const load = (source: string) => exampleText("vite/main.js").replace('"/models/deit-tiny-slim/"', source);

test.each(["vite 5", "vite 8", "webpack", "Rspack", "Rsbuild"])(
  "an app of %s serves the model's files and names the umbrella",
  async (bundler) => {
    const { answer, errors, asked } = await visitor.visit(makeAppWith(IMPORT + load("model"), bundler));
    expect({ answer, errors }).toEqual({ answer: expect.stringMatching(LABEL), errors: [] });
    expect(asked.filter((path) => path.startsWith("/models/"))).toEqual([]);
  },
);

test('"npm:name@version" is loaded from the address given for the CDN', async () => {
  const main = load(`"npm:${NAME}@0.1.0", { npmUrl: "/models" }`);
  const { answer, asked } = await visitor.visit(makeAppWith(main, "esbuild with splitting"));
  expect(answer).toMatch(LABEL);
  expect(asked).toContain(`/models/${NAME}@0.1.0/slimvit.json`);
});

test("Node loads the package from its disk, and refuses a name without a version", () => {
  const folder = makeApp({ ...BUNDLERS.webpack, files: {} });
  folders.push(folder);
  unpackModel(MODEL, join(folder, "node_modules", NAME));
  writeFileSync(
    join(folder, "run.mjs"),
    `${IMPORT}import { SlimViT } from "slimvit";
    const vit = await SlimViT.load(model);
    console.log(vit.info.name);
    vit.dispose();
    await SlimViT.load("npm:${NAME}").catch(({ code, message }) => console.log(code, message));`,
  );
  const [name, refusal] = execFileSync(process.execPath, ["run.mjs"], { cwd: folder, encoding: "utf8" }).split("\n");
  expect(name).toBe(MODEL);
  expect(refusal).toMatch(/^bad-option .*npm:name@1\.2\.3/);
});
