/** The packed types in strict projects: node16 and bundler resolution, exactOptionalPropertyTypes, with and without DOM. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import ts from "typescript";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { installPacked, link } from "./packed.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-types-"));
  installPacked(folder, "slimvit");
  for (const name of ["@types/node", "undici-types"]) link(join(folder, "node_modules"), name);
  mkdirSync(join(folder, "src"));
  writeFileSync(join(folder, "package.json"), '{ "type": "module" }');
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const APP = `
import { SlimViT, SlimViTError, type Classification, type EnginePackage, type LoadOptions } from "slimvit";
import { onnx } from "slimvit/engines/onnx";
import { onnxWebgpu } from "slimvit/engines/onnx-webgpu";
import { tfjs } from "slimvit/engines/tfjs";
import { createHost } from "slimvit/worker.js";

const engines: readonly EnginePackage[] = [onnx, onnxWebgpu, tfjs];
export const options: LoadOptions = { engine: "auto", dtype: "int8", threads: 2, engines, host: createHost };
export async function label(): Promise<string> {
  const vit = await SlimViT.load("/models/mine/", options);
  const pixels = { data: new Uint8ClampedArray(16), width: 2, height: 2 };
  const one: Classification = await vit.classify(pixels, { topK: 3 });
  const two: Classification[] = await vit.classify([pixels, pixels]);
  const vector: Float32Array = await vit.embed(pixels);
  vit.dispose();
  return \`\${one.classes[0]?.label} \${two.length} \${vector.length}\`;
}
export const isOurs = (error: unknown): error is SlimViTError => error instanceof SlimViTError;
// @ts-expect-error a wrong option is refused, so the types are not any
export const wrong: LoadOptions = { engine: "nothing" };
`;
const PAGE = `
import { SlimViT } from "slimvit";
export async function page(image: HTMLImageElement, video: HTMLVideoElement, files: FileList): Promise<void> {
  const vit = await SlimViT.load([...files], { signal: AbortSignal.timeout(1000) });
  await vit.classify(image, { signal: AbortSignal.timeout(1000) });
  for await (const { classes } of vit.stream(video)) if (classes.length === 0) break;
  // @ts-expect-error a number is no picture, so the types are not any
  await vit.classify(3);
}
`;

/** @returns what the compiler says, one line an error */
function check(text: string, options: ts.CompilerOptions): string[] {
  const file = join(folder, "src/app.ts");
  writeFileSync(file, text);
  const program = ts.createProgram([file], {
    strict: true,
    noEmit: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    skipLibCheck: false,
    target: ts.ScriptTarget.ES2022,
    types: [],
    ...options,
  });
  return ts
    .getPreEmitDiagnostics(program)
    .map(({ messageText, file }) => `${file?.fileName ?? ""}: ${ts.flattenDiagnosticMessageText(messageText, " ")}`);
}

const node16 = { module: ts.ModuleKind.Node16, moduleResolution: ts.ModuleResolutionKind.Node16 };
const bundler = { module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler };

describe.each([
  ["node16", node16],
  ["bundler", bundler],
])("moduleResolution %s", (_, resolution) => {
  test("in a page's project", () => {
    const lib = ["lib.es2022.d.ts", "lib.dom.d.ts", "lib.dom.iterable.d.ts", "lib.dom.asynciterable.d.ts"];
    expect(check(APP, { ...resolution, lib })).toEqual([]);
    expect(check(PAGE, { ...resolution, lib })).toEqual([]);
  });

  test("in a worker's project", () => {
    expect(check(APP, { ...resolution, lib: ["lib.es2022.d.ts", "lib.webworker.d.ts"] })).toEqual([]);
  });

  test("in Node, without the DOM", () => {
    expect(
      check(APP, {
        ...resolution,
        lib: ["lib.es2022.d.ts"],
        types: ["node"],
        typeRoots: [join(folder, "node_modules/@types")],
      }),
    ).toEqual([]);
  });

  test("without the DOM and without Node", () => {
    expect(check(APP, { ...resolution, lib: ["lib.es2022.d.ts"] })).toEqual([]);
  });
});
