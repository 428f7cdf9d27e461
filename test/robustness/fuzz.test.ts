import { existsSync, readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { expect, test } from "vitest";
import { writeOnnx } from "../../src/engines/onnx/graph.ts";
import { checkOnnx } from "../fuzz/onnx-reader.ts";
import { TARGETS } from "../fuzz/targets.ts";
import { randomModel } from "../helpers.ts";
import { tinyArchitecture } from "../tools/fixtures.ts";
import { count, Tally } from "./tally.ts";

const FOUND = fileURLToPath(new URL("../fuzz/found", import.meta.url));

/** What `npm run fuzz` has found, by its file's name. */
function foundBy(target: string): [string, Uint8Array][] {
  const folder = `${FOUND}/${target}`;
  return existsSync(folder) ? readdirSync(folder).map((name) => [name, readFileSync(`${folder}/${name}`)]) : [];
}

test.each(Object.entries(TARGETS))("%s: the fuzzer's seeds, its finds and damage to both", async (name, target) => {
  const tally = new Tally("fuzz", `inputs of the fuzzer's target ${name}`);
  const seeds = (await target.seeds()).map((seed, k): [string, Uint8Array] => [`seed ${k}`, seed]);
  const inputs = [...seeds, ...foundBy(name)];
  const attempt = async (what: string, bytes: Uint8Array) => {
    try {
      await target.fuzz(bytes);
      tally.add();
    } catch (error) {
      tally.add(`${what}: ${error}`);
    }
  };
  for (const [what, bytes] of inputs) await attempt(what, bytes);
  const damage = fc.tuple(fc.nat(inputs.length - 1), fc.array(fc.tuple(fc.nat(4096), fc.nat(255)), { maxLength: 4 }));
  await fc.assert(
    fc.asyncProperty(damage, async ([k, edits]) => {
      const bytes = Uint8Array.from(inputs[k][1]);
      for (const [at, value] of edits) if (bytes.length) bytes[at % bytes.length] = value;
      await attempt(`${inputs[k][0]} with ${JSON.stringify(edits)}`, bytes);
    }),
    { numRuns: count(2000, 50) },
  );
  tally.close();
});

test("the reader of ONNX files that fuzzing relies on refuses a file with a byte too few, and another network's", () => {
  const { manifest, ...rest } = randomModel(tinyArchitecture(), 1);
  const file = writeOnnx({ manifest, ...rest });
  checkOnnx(file, manifest);
  expect(() => checkOnnx(file.subarray(0, file.length - 1), manifest)).toThrow("ends past its message");
  expect(() => checkOnnx(file, { ...manifest, embedDim: 17 })).toThrow("features,1,17");
});
