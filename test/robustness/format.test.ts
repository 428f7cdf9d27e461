import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { test } from "vitest";
import { installedPackages } from "../../src/engines/installedPackages.ts";
import { openOnnx } from "../../src/engines/onnx/engine.ts";
import { SlimViTError } from "../../src/errors.ts";
import type { WeightsDtype } from "../../src/format/model.ts";
import { readManifest, readModel } from "../../src/format/read.ts";
import { readSafetensors } from "../../src/format/safetensors.ts";
import { encodeTensors, writeWeights } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import { expectClose, randomModel, randomPixels, slimArchitecture } from "../helpers.ts";
import { count, Tally } from "./tally.ts";

const MAX_BYTES = 100e6;

/** Either it is read, or a SlimViTError names the file; and it has not taken 100 MB on the way. */
function attempt(read: () => unknown): string {
  const held = () => {
    const { heapUsed, arrayBuffers } = process.memoryUsage();
    return heapUsed + arrayBuffers;
  };
  const before = held();
  try {
    read();
  } catch (error) {
    if (!(error instanceof SlimViTError) || error.code !== "bad-model" || !error.message.startsWith("x: "))
      return String(error);
  }
  const taken = held() - before;
  return taken > MAX_BYTES ? `took ${taken} bytes` : "";
}

const anyModel = fc.tuple(slimArchitecture(), fc.nat(1e6)).map(([arch, seed]) => randomModel(arch, seed));
const dtypes: WeightsDtype[] = ["f32", "f16", "int8"];
const runs = (full: number) => ({ numRuns: count(full, full / 20) });

/** Overwritten bytes, then a cut or an insertion. */
interface Damage {
  /** where, as a share of the whole; with what */
  edits: [number, number][];
  inHeader: boolean;
  cut: number | null;
  insert: Uint8Array;
}

const damage: fc.Arbitrary<Damage> = fc.record({
  edits: fc.array(fc.tuple(fc.double({ min: 0, max: 1, noNaN: true }), fc.nat(255)), { maxLength: 6 }),
  inHeader: fc.boolean(),
  cut: fc.option(fc.double({ min: 0, max: 1, noNaN: true }), { freq: 3 }),
  insert: fc.uint8Array({ maxLength: 4 }),
});

function damaged(whole: Uint8Array, { edits, inHeader, cut, insert }: Damage): Uint8Array {
  const end = inHeader ? 8 + whole[0] + 256 * whole[1] : whole.length;
  const at = (share: number) => Math.floor(share * (end - 1));
  const bytes = Uint8Array.from(whole);
  for (const [where, value] of edits) bytes[at(where)] = value;
  const middle = at(cut ?? 0.5);
  return cut === null
    ? Uint8Array.from([...bytes.subarray(0, middle), ...insert, ...bytes.subarray(middle)])
    : bytes.subarray(0, middle);
}

test("generated damage to weights of generated networks is read or refused", () => {
  const tally = new Tally("format", "weights damaged at random");
  fc.assert(
    fc.property(
      anyModel,
      fc.constantFrom(...dtypes),
      fc.array(damage, { minLength: 5, maxLength: 5 }),
      (model, dtype, list) => {
        const whole = writeWeights(encodeTensors(model.tensors, dtype));
        for (const how of list) {
          const bytes = damaged(whole, how);
          tally.add(attempt(() => readModel(model.manifest, dtype, bytes, "x")));
        }
      },
    ),
    runs(1000),
  );
  tally.close();
});

test("generated headers are read or refused", () => {
  const tally = new Tally("format", "safetensors headers made at random");
  const size = fc.oneof(fc.nat(8), fc.constantFrom(-1, 0.5, 2 ** 31, 2 ** 32, 2 ** 53 - 1, 2 ** 53, 1e300, null, "4"));
  const entry = fc.record(
    {
      dtype: fc.oneof(
        fc.constantFrom("F32", "F16", "I8", "U8", "BOOL", "F64", "BF16", "F8_E4M3", "__proto__"),
        fc.jsonValue(),
      ),
      shape: fc.oneof(fc.array(size, { maxLength: 4 }), fc.jsonValue()),
      data_offsets: fc.oneof(fc.array(size, { maxLength: 3 }), fc.jsonValue()),
    },
    { requiredKeys: [] },
  );
  const key = fc.oneof(fc.constantFrom("a", "__proto__", "__metadata__", "constructor"), fc.string());
  const header = fc.array(fc.tuple(key, fc.oneof(entry, fc.jsonValue())), { maxLength: 5 }).map(
    // not by an object: a key may come twice
    (entries) => `{${entries.map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`).join()}}`,
  );
  fc.assert(
    fc.property(header, fc.nat(64), (text, dataBytes) => {
      const json = new TextEncoder().encode(text);
      const bytes = new Uint8Array(8 + json.length + dataBytes);
      new DataView(bytes.buffer).setUint32(0, json.length, true);
      bytes.set(json, 8);
      tally.add(attempt(() => readSafetensors(bytes, "x")));
    }),
    runs(4000),
  );
  tally.close();
});

test("generated damage to manifests of generated networks is read or refused", () => {
  const tally = new Tally("format", "manifests damaged at random");
  const value = fc.oneof(
    fc.jsonValue(),
    fc.constantFrom<unknown>(-1, 0, 0.5, 2 ** 31, 2 ** 53, 1e308, "", "../x.safetensors", [], {}, null, [[]], [null]),
  );
  fc.assert(
    fc.property(anyModel, fc.array(fc.tuple(fc.nat(), value), { minLength: 1, maxLength: 3 }), (model, edits) => {
      // biome-ignore lint/suspicious/noExplicitAny: a manifest to be spoilt in any way
      const root: any = { manifest: JSON.parse(JSON.stringify(model.manifest)) };
      for (const [choice, replacement] of edits) {
        const places = placesOf(root);
        const [parent, name] = places[choice % places.length];
        parent[name] = replacement;
      }
      tally.add(attempt(() => readManifest(JSON.stringify(root.manifest) ?? "", "x")));
    }),
    runs(3000),
  );
  tally.close();
});

/** Every value below `root`, by the object that holds it and its name there. */
// biome-ignore lint/suspicious/noExplicitAny: JSON of any shape
function placesOf(root: any): [any, string][] {
  if (typeof root !== "object" || root === null) return [];
  return Object.keys(root).flatMap((name) => [[root, name] as [unknown, string], ...placesOf(root[name])]);
}

test("documents that are small and unfold in JSON.parse stay under 100 MB of heap", () => {
  const probe = fileURLToPath(new URL("unfolding.ts", import.meta.url));
  const args = ["--max-old-space-size=100", "--import", "tsx", probe];
  const { stdout, stderr, status } = spawnSync(process.execPath, args, { encoding: "utf8" });
  const outcomes = stdout.trim().split("\n").filter(Boolean);
  const tally = new Tally("format", "documents that unfold, in a process of 100 MB of heap");
  for (const outcome of outcomes) tally.add(outcome.startsWith("refused ") ? "" : outcome);
  tally.add(status === 0 ? "" : `exit ${status}: ${stderr.slice(0, 300)}`);
  tally.close();
});

test("generated networks, written as ONNX, open and give the reference's logits", async () => {
  const tally = new Tally("onnx-writer", "slim networks made at random");
  await fc.assert(
    fc.asyncProperty(
      anyModel,
      fc.constantFrom(...dtypes),
      fc.string({ unit: "binary" }),
      async (drawn, dtype, name) => {
        const manifest = { ...drawn.manifest, name };
        const model = { manifest, dtype, tensors: encodeTensors(drawn.tensors, dtype) };
        const pixels = randomPixels(manifest, 1);
        const engine = await openOnnx(model, {}, installedPackages);
        try {
          expectClose((await engine.run(pixels)).logits, forward(model, pixels).logits, 1e-4);
          tally.add();
        } catch (error) {
          tally.add(String(error));
        } finally {
          engine.dispose();
        }
      },
    ),
    runs(300),
  );
  tally.close();
});
