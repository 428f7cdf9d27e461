/** What `explain` shows of networks that merge tokens. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { SlimViT } from "../../src/index.ts";
import { attentionOverPatches } from "../../src/reference/insight.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { randomModel } from "../helpers.ts";

const folder = mkdtempSync(join(tmpdir(), "slimvit-explain-"));
afterAll(() => rmSync(folder, { recursive: true }));

const keepIdx = [0, 1, 2, 3, 4];
const blocks = [2, 0].map((merge) => ({ headDims: [4], mlpHidden: 8, keepIdx, merge }));
const sizes = { imageSize: [8, 8] as [number, number], patchSize: 4, embedDim: 8, headDim: 4, layerNormEps: 1e-6 };
const model = randomModel({ ...sizes, prefixTokens: 1, blocks }, 3);

test("a merged row's attention is shared by the patches that it stands for", () => {
  const first = Float32Array.of(0.2, 0.2, 0.2, 0.2, 0.2); // before anything has merged
  const second = Float32Array.of(0.1, 0.6, 0.3);
  const groups = [Int32Array.of(1, 2, 1, 1), Int32Array.of(1, 2, 1, 1)];
  const [before, after] = attentionOverPatches(model.manifest, [first, second], groups);
  expect(before).toBe(first);
  expect([...after]).toEqual([0.1, 0.2, 0.3, 0.2, 0.2].map((v) => expect.closeTo(v)));
});

test("classify gives groups of patches, and attention over keepIdx that still sums to 1", async () => {
  writeModelFolder(folder, model.manifest, model.tensors, ["f32"], {}, true);
  const vit = await SlimViT.load(folder, { engine: "reference" });
  const data = new Uint8Array(8 * 8 * 4).map((_, i) => (i * 37) % 256);
  const image = { data, width: 8, height: 8 };
  const { attention, groups } = await vit.classify(image, { explain: true });
  expect(vit.info).toMatchObject({ pooling: "class", variant: "default", blocks: [{ merge: 2 }, { merge: 0 }] });
  expect(vit.info.variants).toEqual([
    { name: "default", macs: vit.info.macs, imageSize: [8, 8], metrics: expect.anything(), ready: true },
  ]);
  expect(groups!.map((rows) => new Set(rows).size)).toEqual([2, 2]); // four patches in two rows
  for (const map of attention!) {
    expect(map).toHaveLength(keepIdx.length);
    expect(map.reduce((a, b) => a + b)).toBeCloseTo(1, 5);
  }
  expect(await vit.classify(image)).not.toHaveProperty("groups");
  vit.dispose();
});
