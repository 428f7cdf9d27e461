/**
 * npx tsx tools/research/merges.ts MODEL --data D [--limit N] LIST...: the divergence of a model that merges the given
 * numbers of pairs in its blocks, without training. A LIST has one number for each block, separated by commas; 192:LIST
 * is the model at 192 px. Each picture goes through the whole model once and through every list. Where D's classes are
 * the model's, the share of right answers is given, too.
 */
import { parseArgs } from "node:util";
import { openSimd } from "../../src/engines/simd/engine.ts";
import { countMacs, type Model } from "../../src/format/model.ts";
import { softmax } from "../../src/reference/scores.ts";
import { resizeModel } from "../checkpoints/resize.ts";
import { evalPixels, labelIndices, openDataset, type Picture, spread, unknownClass } from "../data/data.ts";
import { listedMerges, withMerges, withoutMerges } from "../masks/mergeSchedule.ts";
import { readModelFolder } from "../models/folders.ts";
import { klDivergence } from "../shared/divergence.ts";
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
const { labels } = model.manifest;
const whole: Model = { ...model, manifest: withoutMerges(model.manifest) };
const { pictures: all, classNames } = await openDataset(values.data, "train", {});
const pictures = spread(all, Number(values.limit));
const indexOf = unknownClass(classNames, labels) ? undefined : labelIndices(classNames, labels);
const dense = await answersOf(whole);
const wanted = dense.map((logits) => softmax(logits));
const rows = [];
for (const list of lists) {
  const merged = mergedModel(list);
  const answers = await answersOf(merged);
  const share = countMacs(merged.manifest, labels.length) / countMacs(whole.manifest, labels.length);
  const same = answers.filter((logits, k) => bestClass(logits) === bestClass(dense[k])).length / pictures.length;
  const sum = answers.reduce((sum, logits, k) => sum + klDivergence(wanted[k], softmax(logits)), 0);
  rows.push({ list, share, same, divergence: sum / pictures.length, right: rightShare(answers) });
}
rows.sort((a, b) => a.divergence - b.divergence);
const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
const columns = [`pairs a block, ${pictures.length} pictures`, "MACs", "same class", "divergence, nats"];
const heads = indexOf ? [...columns, `right, of the whole model's ${percent(rightShare(dense)!)}`] : columns;
const cells = rows.map(({ list, share, same, divergence, right }) => [
  list,
  percent(share),
  percent(same),
  divergence.toFixed(3),
  ...(right === undefined ? [] : [percent(right)]),
]);
const lines = [heads, heads.map(() => "---"), ...cells].map((row) => `| ${row.join(" | ")} |\n`);
process.stdout.write(lines.join(""));

/** @param list with the picture's side before it, if that is not the model's */
function mergedModel(list: string): Model {
  const [pairs, side] = list.split(":").reverse();
  const { manifest, tensors } = side ? resizeModel(whole, [Number(side), Number(side)]) : whole;
  const counts = new Map(pairs.split(",").map((merge, block) => [block, Number(merge)]));
  return { ...whole, tensors, manifest: withMerges(manifest, listedMerges(manifest, counts)) };
}

async function answersOf(one: Model): Promise<Float32Array[]> {
  const engine = await openSimd(one, { threads: 1 });
  const answers: Float32Array[] = [];
  for (const picture of pictures)
    answers.push((await engine.run(await evalPixels(picture, one.manifest.preprocess))).logits);
  engine.dispose();
  return answers;
}

function rightShare(answers: Float32Array[]): number | undefined {
  if (!indexOf) return undefined;
  const isRight = ({ className }: Picture, k: number) => bestClass(answers[k]) === indexOf.get(className);
  return pictures.filter(isRight).length / pictures.length;
}
