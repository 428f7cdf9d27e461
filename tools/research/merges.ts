/**
 * npx tsx tools/research/merges.ts MODEL --data D [--limit N] LIST...: the divergence of a model that merges the given
 * numbers of pairs in its blocks, without training. A LIST has one number for each block, separated by commas. Each
 * picture goes through the whole model once and through every list.
 */
import { parseArgs } from "node:util";
import { openSimd } from "../../src/engines/simd/engine.ts";
import { countMacs } from "../../src/format/model.ts";
import { softmax } from "../../src/reference/scores.ts";
import { evalPixels, openDataset, spread } from "../data/data.ts";
import { listedMerges, withMerges } from "../masks/mergeSchedule.ts";
import { readModelFolder } from "../models/folders.ts";
import { bestClass } from "../shared/ranks.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    data: { type: "string", multiple: true, default: [] },
    limit: { type: "string", default: "300" },
  },
});
const [source, ...lists] = positionals;
const model = readModelFolder(source);
const { manifest } = model;
const whole = withMerges(
  manifest,
  manifest.blocks.map(() => 0),
);
const classes = manifest.labels.length;
const dense = await openSimd({ ...model, manifest: whole }, { threads: 1 });
const { pictures } = await openDataset(values.data, "train", {});
const cases = await Promise.all(
  lists.map(async (list) => {
    const pairs = new Map(list.split(",").map((merge, block) => [block, Number(merge)]));
    const merged = withMerges(whole, listedMerges(whole, pairs));
    const engine = await openSimd({ ...model, manifest: merged }, { threads: 1 });
    return { list, engine, share: countMacs(merged, classes) / countMacs(whole, classes), same: 0, divergence: 0 };
  }),
);
let n = 0;
for (const picture of spread(pictures, Number(values.limit))) {
  const pixels = await evalPixels(picture, manifest.preprocess);
  const q = softmax((await dense.run(pixels)).logits);
  const best = bestClass(q);
  n++;
  for (const one of cases) {
    const p = softmax((await one.engine.run(pixels)).logits);
    if (bestClass(p) === best) one.same++;
    for (let k = 0; k < q.length; k++)
      if (q[k] > 0) one.divergence += q[k] * Math.log(q[k] / Math.max(p[k], Number.MIN_VALUE));
  }
}
const rows = cases
  .map(({ list, share, same, divergence }) => ({ list, share, agreement: same / n, divergence: divergence / n }))
  .sort((a, b) => a.divergence - b.divergence);
process.stdout.write(
  [
    `| pairs a block, ${n} pictures | MACs | same class | divergence, nats |`,
    "| --- | --- | --- | --- |",
    ...rows.map(
      ({ list, share, agreement, divergence }) =>
        `| ${list} | ${(100 * share).toFixed(1)} % | ${(100 * agreement).toFixed(1)} % | ${divergence.toFixed(3)} |`,
    ),
    "",
  ].join("\n"),
);
