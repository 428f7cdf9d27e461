/**
 * The report of a run: the verdict, the frontier, and where the dense and the slim model differ, for each class and
 * picture.
 */
import { basename, resolve } from "node:path";
import sharp from "sharp";
import type { Label } from "../../src/format/model.ts";
import type { Picture } from "../data/data.ts";
import { openForSharp, readPicture } from "../data/pixels.ts";
import { readManifestFile } from "../models/folders.ts";
import { CUT, chart, PALETTE, reportPage, table } from "../report/charts.ts";
import { escaped } from "../report/html.ts";
import { percent, si } from "../shared/terminal.ts";
import { indicesOf } from "./classes.ts";
import type { Answers } from "./measure.ts";
import type { Outcome, Row } from "./outcome.ts";
import type { SlimRun } from "./run.ts";
import { headline, milliseconds, pairedText, tradeLines } from "./verdict.ts";

/** Pictures that are shown, and the length of their longer side. */
const PICTURES = 24;
const THUMBNAIL = 160;
/** With more classes a matrix cannot be read, so the most frequent confusions are listed instead. */
const MATRIX_CLASSES = 30;
const LISTED_CONFUSIONS = 25;

/** @param answers on the val pictures, in their order */
export async function slimPage(
  run: SlimRun,
  outcome: Outcome,
  answers: { dense: Answers; slim: Answers },
): Promise<string> {
  const { labels } = readManifestFile(run.source);
  const parts = [verdict(outcome), frontierPart(outcome)];
  if (!outcome.unlabelled) {
    const judged = judgedBy(run, labels, answers);
    parts.push(classesPart(judged), confusionPart(judged));
    parts.push(await wrongPart(judged, run.data.val));
  }
  return reportPage(basename(resolve(outcome.out)), parts.join("\n"));
}

function verdict(outcome: Outcome): string {
  const { dense, slim, val, test, target, notes, unlabelled } = outcome;
  const what = unlabelled ? "same best class as the dense model" : "top-1";
  const megabytes = ({ bytes, dtype }: Row) => `${(bytes / 1e6).toFixed(2)} MB (${dtype})`;
  const rows = [
    [`${what}, ${val.n} val pictures`, percent(val.dense), percent(val.slim)],
    ...(test ? [[`${what}, ${test.n} test pictures`, percent(test.dense), percent(test.slim)]] : []),
    ["multiply-accumulates", si(dense.macs), `${si(slim.macs)} (${percent(slim.macsShare)})`],
    ["file", megabytes(dense), megabytes(slim)],
    ["milliseconds an image, one thread here", milliseconds(dense.ms), milliseconds(slim.ms)],
  ];
  const sentences = [
    `Asked for: ${target}.`,
    `On val, which chose the model: ${pairedText(val)}.`,
    test
      ? `On test, which chose nothing: ${pairedText(test)}.`
      : "The data has no test pictures, so new pictures may do a little worse than val.",
    ...notes.map((note) => `${note[0].toUpperCase()}${note.slice(1)}.`),
  ];
  const paragraph = (text: string) => `<p>${escaped(text)}</p>`;
  return `<p><strong>${escaped(headline({ ...outcome, out: basename(resolve(outcome.out)) }))}</strong></p>
${table(["", "dense", "slim"], rows)}
${sentences.map(paragraph).join("\n")}`;
}

function frontierPart({ frontier, dense, unlabelled }: Outcome): string {
  const signed = (share: number) => Number((100 * share).toFixed(2));
  const at = (row: Row): [number, number] => [100 * row.macsShare, signed(row.difference)];
  const rows = [{ ...dense, what: "dense" }, ...frontier];
  const bars = rows.map((row) => ({
    type: "line",
    symbol: "none",
    lineStyle: { color: CUT, width: 3 },
    data: row.interval.map((end) => [100 * row.macsShare, signed(end)]),
  }));
  const dots = (name: string, some: Row[], color: string, symbolSize: number) => ({
    ...{ name, type: "scatter", symbolSize, itemStyle: { color } },
    data: some.map(at),
  });
  const option = {
    legend: { data: ["measured", "taken"] },
    grid: { left: 56, right: 24, top: 40, bottom: 48 },
    xAxis: { type: "value", name: "% of the MACs", scale: true, nameLocation: "middle", nameGap: 28 },
    yAxis: { type: "value", name: "points to dense", scale: true },
    series: [
      ...bars.slice(1),
      dots(
        "measured",
        rows.filter(({ isTaken }) => !isTaken),
        PALETTE[0],
        9,
      ),
      dots(
        "taken",
        rows.filter(({ isTaken }) => isTaken),
        PALETTE[1],
        14,
      ),
    ],
  };
  const cells = rows.map((row) => [
    `${row.isTaken ? "→ " : ""}${row.what}, ${row.dtype}`,
    percent(row.macsShare),
    milliseconds(row.ms),
    (row.bytes / 1e6).toFixed(2),
    percent(row.top1),
    `${signed(row.difference)} (${row.interval.map(signed).join(" to ")})`.replaceAll("-", "−"),
  ]);
  const head = ["model", "MACs", "ms", "MB", unlabelled ? "agreement" : "top-1", "points to dense, 95 % interval"];
  const trades = tradeLines(frontier).map((line) => `<li>${escaped(line.trim())}</li>`);
  return `<h2>The frontier</h2>
<p>No model that was looked at is both cheaper and closer to the dense one than these.</p>
<div class="charts">${chart("Points of top-1 to the dense model against multiply-accumulates, with 95 % intervals", option, 900, 380)}</div>
${table(head, cells)}
<ul>${trades.join("")}</ul>`;
}

/** A val picture with both models' answers, as labels of the model. */
interface Judged {
  place: number;
  className: string;
  right: number;
  dense: number;
  slim: number;
  denseRight: boolean;
  slimRight: boolean;
  nameOf: (index: number) => string;
}

function judgedBy({ data }: SlimRun, labels: Label[], { dense, slim }: { dense: Answers; slim: Answers }): Judged[] {
  const indices = indicesOf(data, labels);
  const nameOf = (index: number) => labels[index]?.label ?? "none";
  return data.val.map(({ className }, place) => ({
    ...{ place, className, right: indices.get(className)!, nameOf },
    ...{ dense: dense.best[place], slim: slim.best[place] },
    denseRight: dense.ranks[place] < 1,
    slimRight: slim.ranks[place] < 1,
  }));
}

const classesOf = (judged: Judged[]) => [...new Set(judged.map(({ className }) => className))].sort();

function classesPart(judged: Judged[]): string {
  const rows = classesOf(judged).map((name) => {
    const own = judged.filter(({ className }) => className === name);
    const share = (of: "denseRight" | "slimRight") => own.filter((one) => one[of]).length / own.length;
    const points = 100 * (share("slimRight") - share("denseRight"));
    return {
      points,
      cells: [
        name,
        String(own.length),
        percent(share("denseRight")),
        percent(share("slimRight")),
        points.toFixed(1).replace("-", "−"),
      ],
    };
  });
  rows.sort((a, b) => a.points - b.points);
  return `<h2>Class by class</h2>
<p>Val pictures that are labelled correctly, the class that loses most first.</p>
${table(
  ["class", "pictures", "dense", "slim", "points"],
  rows.map(({ cells }) => cells),
)}`;
}

function confusionPart(judged: Judged[]): string {
  const names = classesOf(judged);
  const heading = "<h2>Classes that are mistaken for each other</h2>";
  if (names.length > MATRIX_CLASSES) return `${heading}\n${confusionList(judged)}`;
  const matrices = (["dense", "slim"] as const).map((which) => matrix(judged, names, which));
  return `${heading}
<p>A row for each class of the pictures, a column for each answer.</p>
<div class="charts">${matrices.join("\n")}</div>`;
}

function confusionList(judged: Judged[]): string {
  const counts = new Map<string, { cells: [string, string]; dense: number; slim: number }>();
  for (const { right, dense, slim, nameOf } of judged) {
    for (const [which, answer] of [
      ["dense", dense],
      ["slim", slim],
    ] as const) {
      if (answer === right) continue;
      const key = `${right} ${answer}`;
      const entry = counts.get(key) ?? { cells: [nameOf(right), nameOf(answer)], dense: 0, slim: 0 };
      entry[which]++;
      counts.set(key, entry);
    }
  }
  const most = [...counts.values()].sort((a, b) => b.slim - a.slim || b.dense - a.dense).slice(0, LISTED_CONFUSIONS);
  return table(
    ["class", "taken for", "dense", "slim"],
    most.map(({ cells, dense, slim }) => [...cells, String(dense), String(slim)]),
  );
}

function matrix(judged: Judged[], names: string[], which: "dense" | "slim"): string {
  const indices = names.map((name) => judged.find(({ className }) => className === name)!.right);
  const rows = names.map((name, r) => {
    const own = judged.filter(({ className }) => className === name);
    const counts = [...indices, undefined].map(
      (column) =>
        own.filter((one) => (column === undefined ? !indices.includes(one[which]) : one[which] === column)).length,
    );
    const cells = counts.map((count, c) => {
      const share = count / own.length;
      const colour = c === r ? `rgb(34 160 107 / ${share})` : `rgb(214 69 124 / ${Math.min(1, 3 * share)})`;
      return `<td style="background: ${colour}">${count || ""}</td>`;
    });
    return `<tr><td>${escaped(name)}</td>${cells.join("")}</tr>`;
  });
  const head = [...names, "other"].map(
    (name) => `<th>${escaped(name.length > 9 ? `${name.slice(0, 8)}…` : name)}</th>`,
  );
  return `<figure><table style="font-size: .75rem"><tr><th></th>${head.join("")}</tr>${rows.join("")}</table>
<figcaption>${which}</figcaption></figure>`;
}

/** Wrong answers, those first that the dense model gets right. */
async function wrongPart(judged: Judged[], pictures: Picture[]): Promise<string> {
  const wrong = judged.filter(({ slimRight }) => !slimRight);
  if (!wrong.length) return "<h2>Pictures that the model gets wrong</h2>\n<p>None of the val pictures.</p>";
  wrong.sort((a, b) => Number(b.denseRight) - Number(a.denseRight));
  const lost = wrong.filter(({ denseRight }) => denseRight).length;
  const figures = await Promise.all(wrong.slice(0, PICTURES).map((one) => thumbnail(one, pictures[one.place])));
  return `<h2>Pictures that the model gets wrong</h2>
<p>${wrong.length} of ${judged.length} val pictures; the dense model gets ${lost} of them right, which come first.</p>
<div class="charts">${figures.join("\n")}</div>`;
}

async function thumbnail({ className, slim, dense, denseRight, nameOf }: Judged, picture: Picture): Promise<string> {
  const { image } = await openForSharp(await readPicture(picture), picture.name);
  const { data, info } = await image.raw().toBuffer({ resolveWithObject: true });
  const { width, height, channels } = info;
  const jpeg = await sharp(data, { raw: { width, height, channels: channels as 1 | 2 | 3 | 4 } })
    .resize(THUMBNAIL, THUMBNAIL, { fit: "inside" })
    .jpeg({ quality: 70 })
    .toBuffer();
  const other = denseRight ? "dense is right" : `dense: ${nameOf(dense)}`;
  const file = picture.name.slice(picture.name.lastIndexOf("/") + 1);
  return `<figure style="width: ${THUMBNAIL}px"><img alt="${escaped(file)}" src="data:image/jpeg;base64,${jpeg.toString("base64")}">
<figcaption>${escaped(className)}, taken for ${escaped(nameOf(slim))}; ${escaped(other)}</figcaption></figure>`;
}
