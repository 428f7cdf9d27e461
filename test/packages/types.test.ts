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
/** What calls take and give, wherever there are no types of a browser's or Node's. */
const CALLS = `
import type { BatchProgress, BatchResult, ClassifyAllOptions, Classification, RawImage, SlimViT, SlimViTError } from "slimvit";

export async function calls(vit: SlimViT, file: ArrayBuffer, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
  const pixels: RawImage = { data: new Uint8Array(16), width: 2, height: 2 };
  const pictures: readonly RawImage[] = [pixels, pixels];
  const mixed = [file, bytes, "picture.jpg", pixels] as const;
  const several: Classification[] = await vit.classify(pictures, { allow: ["cat"] as const });
  const vectors: Float32Array[] = await vit.embed(mixed);
  const one: Classification = await vit.classify(file);
  const vector: Float32Array = await vit.embed(bytes);

  const counts: number[] = [one.classes.length, vector.length, several.length, vectors.length];
  const onProgress = ({ done, failed, total }: BatchProgress) => void counts.push(done + failed + (total ?? 0));
  const options: ClassifyAllOptions = { concurrency: 2, topK: 1, deny: ["dog"], onProgress };
  for await (const answer of vit.classifyAll(pictures, options)) {
    const input: RawImage = answer.input;
    if (answer.error) {
      const { code }: SlimViTError = answer.error;
      const nothing: undefined = answer.result;
      counts.push(code.length, input.width, Number(nothing));
    } else counts.push(answer.index, answer.result.classes.length);
  }
  async function* later(): AsyncGenerator<ArrayBuffer> {
    yield file;
  }
  for await (const { input, result } of vit.classifyAll(later())) counts.push(input.byteLength, result?.classes.length ?? 0);
  for await (const answer of vit.embedAll(new Set(mixed), { concurrency: 1 })) {
    const same: BatchResult<(typeof mixed)[number], Float32Array> = answer;
    counts.push(same.result?.length ?? 0);
  }
  // @ts-expect-error a property that is given has a value: exactOptionalPropertyTypes holds for the package's types, too
  vit.classifyAll(pictures, { concurrency: undefined });
  // @ts-expect-error what is no option is refused
  vit.classifyAll(pictures, { atOnce: 2 });
  // @ts-expect-error a number is no picture
  vit.classifyAll([3]);
}
`;
/** In browsers, workers and Node. */
const RESPONSES = `
import { type Classification, SlimViT } from "slimvit";

export async function responses(vit: SlimViT, abort: AbortController): Promise<void> {
  const { signal } = abort;
  const response: Response = await fetch("picture.jpg", { signal });
  const one: Classification = await vit.classify(response, { signal });
  const vector: Float32Array = await vit.embed(await (await fetch(new URL("picture.jpg", response.url))).arrayBuffer(), { signal });
  const answers: readonly Response[] = [response, response];
  const several: Classification[] = await vit.classify(answers, { signal });
  for await (const { input, error } of vit.classifyAll(answers, { signal, concurrency: several.length })) {
    if (error?.code === "aborted" || !input.ok) break;
  }
  await vit.classify(new Blob([one.engine, String(vector.length)]), { signal });
  // @ts-expect-error a request is no picture, so a Response is not any
  await vit.classify(new Request("picture.jpg"));
}
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
function check(texts: string[], options: ts.CompilerOptions): string[] {
  const files = texts.map((_, i) => join(folder, `src/part${i}.ts`));
  files.forEach((file, i) => void writeFileSync(file, texts[i]));
  const program = ts.createProgram(files, {
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
    expect(check([APP, CALLS, RESPONSES, PAGE], { ...resolution, lib })).toEqual([]);
  });

  test("in a worker's project", () => {
    const lib = ["lib.es2022.d.ts", "lib.webworker.d.ts"];
    expect(check([APP, CALLS, RESPONSES], { ...resolution, lib })).toEqual([]);
  });

  test("in Node, without the DOM", () => {
    const typeRoots = [join(folder, "node_modules/@types")];
    const options = { ...resolution, lib: ["lib.es2022.d.ts"], types: ["node"], typeRoots };
    expect(check([APP, CALLS, RESPONSES], options)).toEqual([]);
  });

  test("without the DOM and without Node", () => {
    expect(check([APP, CALLS], { ...resolution, lib: ["lib.es2022.d.ts"] })).toEqual([]);
  });
});
