import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import type { Manifest } from "../../src/format/model.ts";
import { preprocess } from "../../src/image/resample.ts";
import { forward } from "../../src/reference/forward.ts";
import { decode } from "../../tools/data/data.ts";
import { readModelFolder, writeModelFolder } from "../../tools/models/folders.ts";
import { attentionShade, lookAt } from "../../tools/report/attention.ts";
import { type ReportModel, reportHtml } from "../../tools/report/report.ts";
import { expectClose, manifestOf } from "../helpers.ts";
import {
  CLASSES,
  randomTensors,
  slimvit,
  slimvitJson,
  tinyArchitecture,
  workplace,
  writeCheckpoint,
  writePictures,
} from "./fixtures.ts";

const at = workplace("report");

const accuracy = (top1: number) => ({
  accuracy: [{ data: "d", split: "val", top1, n: 9, engine: "simd", dtype: "f32" }],
});

function slim(name: string, top1: number): ReportModel {
  const arch = tinyArchitecture();
  const blocks = [
    { headDims: [8, 3], mlpHidden: 20, keepIdx: [0, 1, 2, 3, 5, 8, 13] },
    { headDims: [4], mlpHidden: 7, keepIdx: [0, 1, 2, 3, 5, 8, 13] },
    { headDims: [], mlpHidden: 0, keepIdx: [0, 5, 13] },
  ];
  const manifest: Manifest = { ...manifestOf({ ...arch, blocks }), name, metrics: accuracy(top1) };
  manifest.provenance = { dense: { heads: 2, mlpHidden: [24, 24, 24] } };
  return { manifest };
}

const zetas = tinyArchitecture().blocks.map(() => ({
  attn: Float32Array.from({ length: 16 }, (_, c) => c / 16),
  mlp: new Float32Array(24).fill(1),
  patch: new Float32Array(17).fill(3),
}));
const history: Record<string, number>[] = [
  { step: 0, "val.top1": 0.1 },
  ...[1, 2, 3].map((step) => ({ step, loss: 3 / step, ce: 2 / step, "attn.p50": 1 - step / 10 })),
  { step: 4, loss: 0.7, ce: 0.6, "attn.p50": 0.6, "val.top1": 0.5 },
];

const figures = (html: string) =>
  new Map([...html.matchAll(/<figure>(.*?)<figcaption>(.*?)<\/figcaption>/gs)].map(([, svg, title]) => [title, svg]));

describe("a report", () => {
  const html = reportHtml([{ ...slim("small", 0.5), zetas, history }, slim("large <b>", 0.75)]);
  const charts = figures(html);

  test("is one file: no script, nothing fetched, names escaped, light and dark", () => {
    expect(html).not.toMatch(/<script|<link|<img|\ssrc=|\shref=|url\((?!#)|@import/);
    expect(html).toContain("large &lt;b&gt;");
    expect(html).not.toContain("large <b>");
    expect(html).toContain("light-dark(");
    expect(html).not.toMatch(/#0a0b0c/i); // all ink has become the page's colour
    expect(html).toContain('fill="currentColor"');
  });

  test("has every chart that its folder has figures for", () => {
    expect([...charts.keys()]).toEqual(
      expect.arrayContaining([
        "Top-1 accuracy against multiply-accumulates",
        "Attention channels a block, by surviving head",
        "MLP units a block",
        "Tokens a block",
        "from block 0: 6 of 16 patches",
        "from block 2: 2 of 16 patches",
        "Attention ζ, all blocks",
        "MLP ζ, all blocks",
        "Tokens: tanh ζ, all blocks",
        "Loss and its terms",
        "On val pictures: top-1 50.0 % at the end, 50.0 % at best (step 4), 10.0 % at the start",
        "Attention ζ: 10 %, 50 %, 90 % quantile",
      ]),
    );
    expect(charts.has("from block 1: 6 of 16 patches")).toBe(false); // the same list as block 0
    const plain = figures(reportHtml([slim("alone", 0.5)]));
    for (const title of ["Top-1 accuracy against multiply-accumulates", "Loss and its terms", "MLP ζ, all blocks"])
      expect(plain.has(title)).toBe(false);
    const unmeasured = reportHtml([{ ...slim("alone", 0.5), history: history.slice(1, 4) }]);
    expect(unmeasured).toContain("Loss and its terms");
    expect(unmeasured).not.toContain("On val pictures");
  });

  test("draws one cell a patch, and as many kept ones as there are", () => {
    const cells = (title: string, fill: RegExp) => charts.get(title)!.match(fill)!.length;
    expect(cells("from block 0: 6 of 16 patches", /fill="#3b82f6"/gi)).toBe(6);
    expect(cells("from block 2: 2 of 16 patches", /fill="#3b82f6"/gi)).toBe(2);
  });

  test("draws accuracy over the steps: a point where it was measured, losses where there is one", () => {
    const points = (title: RegExp) => {
      const [, svg] = [...charts].find(([name]) => title.test(name))!;
      return svg.match(/<path d="M1 0A1 1 [^>]*transform="matrix\(3,/g)!.length;
    };
    expect(points(/^On val/)).toBe(2);
    expect(points(/^Loss and/)).toBe(8); // two terms at four steps
  });

  test("names the loss's terms, and bars and heads by what they are", () => {
    for (const term of ["loss", "ce"]) expect(charts.get("Loss and its terms")).toContain(`>${term}</text>`);
    for (const name of ["head 0", "head 1", "cut"])
      expect(charts.get("Attention channels a block, by surviving head")).toContain(`>${name}</text>`);
  });
});

test("inspect --report writes the page of several models", async () => {
  writeCheckpoint(at("tiny.safetensors"), randomTensors(tinyArchitecture(), 3, 1));
  for (const name of ["a", "b"])
    await slimvit("import", at("tiny.safetensors"), "-o", at(name), "--heads", "2", "--name", name);
  const { status, stdout } = await slimvit("inspect", at("a"), at("b"), "--report", at("page.html"), "--json");
  expect(status).toBe(0);
  expect(JSON.parse(stdout)).toHaveLength(2);
  const page = readFileSync(at("page.html"), "utf8");
  expect(page).toContain("<h2>a</h2>");
  expect(page).toContain("<h2>b</h2>");
});

describe("attention maps", () => {
  const picture = at("pictures", CLASSES[0], "00.png");
  const [dense, cut] = [at("dense"), at("cut")];
  beforeAll(async () => {
    await writePictures(at("pictures"), 2);
    writeCheckpoint(at("maps.safetensors"), randomTensors(tinyArchitecture(), 3, 1));
    await slimvitJson("import", at("maps.safetensors"), "-o", dense, "--heads", "2", "--name", "the <dense>");
    const { manifest, tensors } = readModelFolder(dense);
    const blocks = manifest.blocks.map((b, i) => ({ ...b, keepIdx: i ? [0, 3, 7, 16] : b.keepIdx }));
    writeModelFolder(cut, { ...manifest, name: "cut", blocks }, tensors, ["f32"]);
  });

  test("are those of the reference, over the tokens each model keeps", async () => {
    const models = [dense, cut].map((folder) => readModelFolder(folder));
    const [looked] = await lookAt(models, [picture]);
    const image = await decode(readFileSync(picture), picture);
    models.forEach((model, m) => {
      const pixels = preprocess(image, model.manifest.preprocess);
      const { attention, logits } = forward(model, pixels, { explain: true });
      const best = logits.indexOf(Math.max(...logits));
      const score = 1 / logits.reduce((sum, v) => sum + Math.exp(v - logits[best]), 0);
      const { label } = model.manifest.labels[best];
      expect(looked[m].best).toEqual({ label, score: expect.closeTo(score, 4) });
      expect(looked[m].attention.map((map) => map.length)).toEqual(m ? [17, 4, 4] : [17, 17, 17]);
      looked[m].attention.forEach((map, i) => void expectClose(map, attention![i], 1e-5));
    });
  });

  test("leave the patch with most attention bright, darken the others, grey what is gone", () => {
    const shade = attentionShade(Float32Array.of(0.7, 0.1, 0.2), [0, 2, 4], 1, 5);
    const patch = (k: number) => [...shade.subarray(4 * k, 4 * k + 4)];
    expect(patch(0)).toEqual([128, 128, 128, 255]); // token 1
    expect(patch(1)).toEqual([0, 0, 0, Math.round((255 * 0.85) / 2)]);
    expect(patch(3)).toEqual([0, 0, 0, 0]); // the class token's own 0.7 does not count
  });

  test("inspect --pictures draws every block of every model on every picture", async () => {
    const other = at("pictures", CLASSES[1], "01.png");
    const page = at("maps.html");
    await slimvitJson("inspect", dense, cut, "--report", page, "--pictures", picture, other);
    const html = readFileSync(page, "utf8");
    expect(html.match(/<img /g)).toHaveLength(2 * 2 * 3);
    expect(html.match(/block 2: 3 patches<\/figcaption>/g)).toHaveLength(2);
    expect(html.match(/the &lt;dense&gt;: [\w ]+, [\d.]+ %/g)).toHaveLength(2);
    expect(html).not.toMatch(/<script|<link|(src=|url\()"?(?!"?data:|#)/);
  });

  test("need a report to be drawn into, and pictures that can be read", async () => {
    const alone = await slimvit("inspect", dense, "--pictures", picture);
    expect(alone.stderr).toMatch(/--pictures needs a report to draw into\. Give --report/);
    expect(alone.status).toBe(2);
    const missing = await slimvit("inspect", dense, "--report", at("no.html"), "--pictures", at("none.png"));
    expect(missing.stderr).toMatch(/none\.png: cannot be read/);
    expect(missing.status).toBe(1);
  });
});
