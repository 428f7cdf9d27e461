/** What --force replaces, and that what is written can be read. */
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { float32 } from "../../src/format/read.ts";
import { claimFile, claimOutput, readModelFolder, writeModel, writeModelFolder } from "../../tools/models/folders.ts";
import { writeFileAtomic, writeFolder } from "../../tools/models/outputs.ts";
import {
  CLASSES,
  expectFailure,
  makeDense,
  randomTensors,
  slimvitJson,
  tinyArchitecture,
  workplace,
} from "./fixtures.ts";

const at = workplace("outputs");
beforeAll(() => makeDense(at, 2));

const draftOf = (folder: string) => {
  const { weights: _, variants: __, variant: ___, ...draft } = readModelFolder(folder).manifest;
  return draft;
};

describe("--force", () => {
  test("never replaces a folder of pictures", async () => {
    const before = readdirSync(at("pictures"));
    await expectFailure(
      ["thin", at("dense"), "-o", at("pictures"), "--force"],
      2,
      /pictures: holds bananas, which SlimViT did not write/,
    );
    expect(readdirSync(at("pictures"))).toEqual(before);
  });

  test.each<[string, () => void, RegExp]>([
    ["its own input", () => claimOutput(at("dense"), true, [at("dense")]), /dense: is the input itself/],
    [
      "a folder of which one variant is the input",
      () => claimOutput(at("dense"), true, [`${at("dense")}#default`]),
      /dense: is the input itself/,
    ],
    ["the input by another name", () => claimOutput(at("link"), true, [at("dense")]), /link: is the input itself/],
    [
      "a folder around an input",
      () => claimOutput(at("around"), true, [at("around", "inner")]),
      /around: holds the input/,
    ],
    ["a file", () => claimOutput(at("labels.tsv"), true), /labels\.tsv: is a file/],
    [
      "a checkpoint, whose configuration alone looks like an export's",
      () => claimOutput(at("checkpoint"), true),
      /holds config\.json, which SlimViT did not write/,
    ],
    [
      "a model with a stranger's file in it",
      () => claimOutput(at("mixed"), true),
      /holds notes\.txt, which SlimViT did not write/,
    ],
    [
      "a folder of what people keep beside models, without a model",
      () => claimOutput(at("readme"), true),
      /holds README\.md, which SlimViT did not write/,
    ],
    [
      "the folder that the command runs in",
      () => claimOutput(".", true),
      /^\.: holds the folder that this command runs in/,
    ],
    ["a folder whose name is empty", () => claimOutput("", true), /-o is empty/],
    ["a folder in a file", () => claimOutput(at("labels.tsv", "model")), /cannot be written .*labels\.tsv is a file/],
  ])("does not replace %s", (_, claim, message) => {
    if (!existsSync(at("link"))) {
      symlinkSync(at("dense"), at("link"));
      for (const name of ["around/inner", "mixed"])
        writeModelFolder(at(name), draftOf(at("dense")), readModelFolder(at("dense")).tensors, ["f32"]);
      writeFileSync(at("around", "slimvit.json"), readFileSync(at("dense", "slimvit.json")));
      writeFileSync(at("mixed", "notes.txt"), "mine");
      mkdirSync(at("readme"));
      writeFileSync(at("readme", "README.md"), "mine");
      mkdirSync(at("checkpoint"));
      writeFileSync(at("checkpoint", "config.json"), "{}");
    }
    expect(claim).toThrow(message);
  });

  test("replaces what SlimViT wrote, folders of models and search results included", () => {
    writeFolder(at("several"), {
      "a/slimvit.json": "{}",
      "a/model.int8.safetensors.zz": "",
      "a/card.md": "",
    });
    writeFolder(at("onnx"), {
      ...{ "slimvit.json": "{}", "model.onnx": "", "model_quantized.onnx": "" },
      ...{ "config.json": "{}", "preprocessor_config.json": "{}" },
    });
    writeFolder(at("found"), { "slimvit.json": "{}", "zetas.safetensors": "", "search.json": "", "scalars.csv": "" });
    for (const folder of ["several", "onnx", "found"])
      expect(() => claimOutput(at(folder), true, [at("dense")])).not.toThrow();
  });

  test("looks again when the work is done", () => {
    mkdirSync(at("later"));
    writeFileSync(at("later", "thesis.doc"), "mine");
    expect(() => writeFolder(at("later"), { "slimvit.json": "{}" }, true)).toThrow(/holds thesis\.doc/);
    expect(readFileSync(at("later", "thesis.doc"), "utf8")).toBe("mine");
    expect(readdirSync(at()).filter((name) => name.startsWith(".later"))).toEqual([]);
  });

  test("nothing is written into the data, where it would be taken for a class", async () => {
    for (const out of [
      at("pictures", "mine"),
      at("pictures", "deep", "mine"),
      at("pictures", "..", "pictures", "mine"),
    ])
      expect(() => claimOutput(out, false, [at("dense")], [at("pictures")])).toThrow(/mine: lies in the data, /);
    expect(() => claimOutput(at("pictures-mine"), false, [at("dense")], [at("pictures")])).not.toThrow();
    const args = ["teach", at("dense"), "--data", at("pictures"), "-o", at("pictures", "mine")];
    await expectFailure(args, 2, /mine: lies in the data/);
  });

  test("a ~ that the shell has left is refused", async () => {
    await expectFailure(["thin", at("dense"), "--out=~/mine"], 2, /'~\/mine' is invalid.*the home folder written out/);
  });

  test("an empty -o is refused", async () => {
    await expectFailure(["thin", at("dense"), "-o", ""], 2, /'-o, --out <folder>' argument '' is invalid.*it is empty/);
  });
});

describe("what is written can be read:", () => {
  const broken = (change: (tensors: ReturnType<typeof randomTensors>) => void) => {
    const tensors = randomTensors(tinyArchitecture(), CLASSES.length, 1);
    change(tensors);
    return tensors;
  };

  test("int8 of weights with channels of very different sizes is refused, f16 of them is not", async () => {
    // Each norm's first channel 256 times as large, its column in the next linear as much smaller: the same function in f32.
    const tensors = broken((all) => {
      for (let i = 0; i < 3; i++) {
        for (const [norm, linear] of [
          ["norm1", "attn.qkv"],
          ["norm2", "mlp.fc1"],
        ]) {
          for (const part of ["weight", "bias"])
            (all.get(`blocks.${i}.${norm}.${part}`)!.data as Float32Array)[0] *= 256;
          const weight = all.get(`blocks.${i}.${linear}.weight`)!.data as Float32Array;
          for (let k = 0; k < weight.length; k += 16) weight[k] /= 256;
        }
      }
    });
    const content = { draft: draftOf(at("dense")), tensors };
    await expect(writeModel(at("outlier"), { ...content, dtypes: ["f32", "int8"] })).rejects.toThrow(
      /outlier: is not written, because its int8 weights fail\. Engine "simd" computes wrong results.* export f16 instead/,
    );
    expect(readdirSync(at()).filter((name) => name.includes("outlier"))).toEqual([]);
    await writeModel(at("outlier"), { ...content, dtypes: ["f16"] });
  });

  test("weights that overflow f16 are refused", async () => {
    const tensors = broken((all) => void ((all.get("norm.weight")!.data as Float32Array)[3] = 1e6));
    const content = { draft: draftOf(at("dense")), tensors, dtypes: ["f16" as const] };
    await expect(writeModel(at("overflow"), content)).rejects.toThrow(/overflow: is not written/);
    expect(existsSync(at("overflow"))).toBe(false);
  });

  test("more labels than a runtime reads are refused", async () => {
    const labels = Array.from({ length: 3 }, (_, k) => ({ id: `${k}`, label: "x".repeat(2 ** 20) }));
    const tensors = broken(() => {});
    await expect(
      writeModel(at("wordy"), { draft: { ...draftOf(at("dense")), labels }, tensors, dtypes: ["f32"] }),
    ).rejects.toThrow(/wordy: is not written, since no runtime would read it/);
  });

  test("a head that is hardly trained passes its self-test", async () => {
    const tensors = broken((all) => {
      for (const part of ["weight", "bias"])
        all.get(`head.${part}`)!.data = float32(all, `head.${part}`).map((v) => v / 1e4);
    });
    await writeModel(at("untrained"), { draft: draftOf(at("dense")), tensors, dtypes: ["f32"] });
    const { selfTest } = readModelFolder(at("untrained")).manifest.variants[0];
    for (const v of selfTest!.f32!.logits!)
      expect(String(Math.abs(v)).replace(/^0\.0*|e.*|\./g, "").length).toBeGreaterThan(3);
  });
});

test("a variant is called as its folder is", async () => {
  await slimvitJson("thin", at("dense"), "-o", at("dense-8"), "--keep", "1:8");
  await slimvitJson("thin", at("dense"), "-o", at("dense-4"), "--keep", "1:4");
  expect(["dense-8", "dense-4"].map((name) => readModelFolder(at(name)).manifest.name)).toEqual(["dense-8", "dense-4"]);
});

describe("a single output file", () => {
  const isOwn = (text: string) => text.startsWith("<!doctype html>");

  test("replaces only what the command wrote", () => {
    writeFileSync(at("own.html"), "<!doctype html> before");
    writeFileSync(at("notes.txt"), "mine");
    claimFile(at("own.html"), isOwn);
    claimFile(at("new", "page.html"), isOwn);
    expect(() => claimFile(at("notes.txt"), isOwn)).toThrow(
      /notes\.txt: exists already, and this command did not write/,
    );
    expect(() => claimFile(at("dense"), isOwn)).toThrow(/dense: is a folder\. Give the output file another name/);
    expect(() => claimFile(at("labels.tsv", "x.html"), isOwn)).toThrow(/cannot be written \(.*labels\.tsv is a file\)/);
  });

  test("inspect --report replaces its own page, and no other", async () => {
    await slimvitJson("inspect", at("dense"), "--report", at("page.html"));
    await slimvitJson("inspect", at("dense"), "--report", at("page.html"));
    writeFileSync(at("mine.html"), "<!doctype html><title>mine</title>");
    await expectFailure(["inspect", at("dense"), "--report", at("mine.html")], 2, /mine\.html: exists already/);
  });

  test("inspect --report does not replace a model's manifest", async () => {
    const before = readFileSync(at("dense", "slimvit.json"), "utf8");
    await expectFailure(["inspect", at("dense"), "--report", at("dense", "slimvit.json")], 2, /exists already/);
    expect(readFileSync(at("dense", "slimvit.json"), "utf8")).toBe(before);
  });

  test("leaves nothing beside it where it cannot be written", () => {
    mkdirSync(at("full", "page.html"), { recursive: true });
    expect(() => writeFileAtomic(at("full", "page.html"), "text")).toThrow();
    expect(readdirSync(at("full"))).toEqual(["page.html"]);
  });
});
