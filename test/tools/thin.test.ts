import { beforeAll, expect, test } from "vitest";
import { patchGrid } from "../../src/format/model.ts";
import { orderedPatches } from "../../tools/masks/patchOrders.ts";
import type { ThinReport } from "../../tools/masks/thin.ts";
import { readModelFolder, writeModelFolder } from "../../tools/models/folders.ts";
import { expectFailure, makeDense, onAllPictures, slimvitJson, tinyArchitecture, workplace } from "./fixtures.ts";

const at = workplace("thin");

beforeAll(() => makeDense(at, 2));

test.each([
  [14, 14],
  [10, 10],
  [7, 12],
])("spread: any number of first patches of %i × %i covers every ninth of the picture alike", (rows, columns) => {
  const order = orderedPatches(tinyArchitecture({ imageSize: [8 * rows, 8 * columns] }), "spread");
  expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: rows * columns }, (_, patch) => patch));
  const ninth = (patch: number) =>
    3 * Math.floor((3 * Math.floor(patch / columns)) / rows) + Math.floor((3 * (patch % columns)) / columns);
  const all = Array(9).fill(0);
  for (const patch of order) all[ninth(patch)]++;
  const kept = Array(9).fill(0);
  order.forEach((patch, k) => {
    kept[ninth(patch)]++;
    const share = (k + 1) / order.length;
    for (let i = 0; i < 9; i++) expect(Math.abs(kept[i] - share * all[i])).toBeLessThan(4); // by distance from the middle: 7 to 20
  });
});

test("centre: no patch that is gone is nearer to the middle than one that stays", () => {
  const arch = tinyArchitecture({ imageSize: [56, 96] });
  const [rows, columns] = patchGrid(arch);
  const distances = orderedPatches(arch, "centre").map((patch) =>
    Math.hypot((Math.floor(patch / columns) + 0.5) / rows - 0.5, ((patch % columns) + 0.5) / columns - 0.5),
  );
  for (let k = 1; k < distances.length; k++) expect(distances[k]).toBeGreaterThanOrEqual(distances[k - 1] - 1e-9);
});

test("--keep holds from its block on, nests, and changes no weight", async () => {
  const report = await slimvitJson<ThinReport>("thin", at("dense"), "-o", at("thinned"), "--keep", "1:9,2:4");
  expect(report.tokens).toEqual([17, 10, 5]);
  expect(report.macsShare).toBeLessThan(1);
  const [dense, thinned] = [at("dense"), at("thinned")].map((folder) => readModelFolder(folder));
  const [all, nine, four] = thinned.manifest.blocks.map(({ keepIdx }) => keepIdx);
  expect(all).toEqual(dense.manifest.blocks[0].keepIdx);
  expect(nine.every((token, k) => k === 0 || token > nine[k - 1])).toBe(true);
  expect(four.every((token) => nine.includes(token)) && four.includes(0)).toBe(true);
  for (const [name, { data }] of dense.tensors) expect(thinned.tensors.get(name)!.data).toEqual(data);
  const evaluated = await slimvitJson("eval", at("thinned"), ...onAllPictures(at));
  expect(evaluated).toMatchObject({ n: 6 });
});

test("without --keep: as many tokens in each block, in other places", async () => {
  await slimvitJson("thin", at("dense"), "-o", at("before"), "--keep", "0:12,2:6");
  const { tokens } = await slimvitJson<ThinReport>("thin", at("before"), "-o", at("central"), "--order", "centre");
  expect(tokens).toEqual([13, 13, 7]);
  const [before, central] = [at("before"), at("central")].map((folder) => readModelFolder(folder).manifest);
  expect(central.blocks[2].keepIdx).not.toEqual(before.blocks[2].keepIdx);
  expect(central.name).toBe("central"); // as its folder
});

test("--restore begins with every patch again, --image-size with the patches of another size", async () => {
  await slimvitJson("thin", at("dense"), "-o", at("few"), "--keep", "0:3");
  const again = await slimvitJson<ThinReport>("thin", at("few"), "-o", at("again"), "--restore");
  expect(again.tokens).toEqual([17, 17, 17]);
  expect(again.macsShare).toBeGreaterThan(1);
  const [dense, restored] = [at("dense"), at("again")].map((folder) => readModelFolder(folder));
  for (const [name, { data }] of dense.tensors) expect(restored.tensors.get(name)!.data).toEqual(data);

  const side = (dense.manifest.imageSize[0] / 4) * 3;
  const smaller = ["thin", at("few"), "--restore", "--image-size", String(side), "--keep", "1:4"];
  const { tokens, macsShare } = await slimvitJson<ThinReport>(...smaller, "-o", at("smaller"));
  expect(tokens).toEqual([10, 5, 5]);
  expect(macsShare).toBeGreaterThan(1); // of the 4 tokens a block that it came with
  const { manifest } = readModelFolder(at("smaller"));
  expect(manifest.imageSize).toEqual([side, side]);
  expect(manifest.provenance.steps).toMatchObject([
    {},
    { keep: { 0: 3 } },
    { restore: true, imageSizeBefore: dense.manifest.imageSize, keep: { 1: 4 } },
  ]);
  expect(await slimvitJson("eval", at("smaller"), ...onAllPictures(at))).toMatchObject({ n: 6 });
});

test.each([
  ["3:4", /^slimvit: thin: --keep 3:4: the model's last block is 2\./],
  ["1:17", /^slimvit: thin: --keep 1:17: only 16 patches come to block 1\./],
  ["1:4,2:9", /^slimvit: thin: --keep 2:9: only 4 patches come to block 2\./],
])("--keep %s is refused", async (keep, sentence) => {
  await expectFailure(["thin", at("dense"), "-o", at("never"), "--keep", keep], 2, sentence);
});

test("--lists takes another model's keep-lists, on the model's own patches", async () => {
  await slimvitJson("thin", at("dense"), "-o", at("learned"), "--keep", "1:9,2:4");
  await slimvitJson("thin", at("dense"), "-o", at("cut"), "--keep", "0:2");
  const lists = (folder: string) => readModelFolder(at(folder)).manifest.blocks.map(({ keepIdx }) => keepIdx);
  const { tokens } = await slimvitJson<ThinReport>("thin", at("cut"), "-o", at("like"), "--lists", at("learned"));
  expect(tokens).toEqual([17, 10, 5]);
  expect(lists("like")).toEqual(lists("learned"));
  const { name, provenance } = readModelFolder(at("like")).manifest;
  expect(name).toBe("like"); // as its folder
  expect((provenance.steps as object[]).at(-1)).toMatchObject({ command: "thin", lists: "learned" });
  const twice = 2 * readModelFolder(at("dense")).manifest.imageSize[0];
  const larger = ["thin", at("dense"), "--image-size", String(twice), "--lists", at("learned")];
  expect((await slimvitJson<ThinReport>(...larger, "-o", at("larger"))).tokens).toEqual([65, 37, 17]); // four for each
});

test("--lists of a model of another depth, or beside other rules, is refused", async () => {
  const { manifest, tensors } = readModelFolder(at("dense"));
  const { format: _, weights: __, ...draft } = manifest;
  writeModelFolder(at("short"), { ...draft, blocks: manifest.blocks.slice(1) }, tensors, []);
  const args = ["thin", at("dense"), "-o", at("never"), "--lists"];
  await expectFailure(
    [...args, at("short")],
    2,
    /--lists .*short: has 2 blocks and 1 prefix tokens, the model 3 and 1\./,
  );
  await expectFailure([...args, at("nowhere")], 1, /nowhere: no such folder/);
  await expectFailure([...args, at("dense"), "--keep", "1:4"], 2, /--lists.*--keep/);
});
