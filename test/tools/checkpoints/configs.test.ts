/** What configs say is followed, and what they leave out is said aloud. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { Architecture, Preprocess, Tensors } from "../../../src/format/model.ts";
import { convertCheckpoint, type ImportOptions } from "../../../tools/checkpoints/import.ts";
import { preprocessing } from "../../../tools/checkpoints/preprocessing.ts";
import { familyCase, familyTensors, writeFamilyCheckpoint } from "../../fixtures/family/numbers.ts";
import { workplace } from "../fixtures.ts";

const at = workplace("configs");
const TIMM = familyCase("timm: ViT");
const HF = familyCase("transformers: ViT");
let folders = 0;

interface Change {
  config?: object;
  preprocessor?: object;
  tensors?: (t: Tensors) => Tensors | undefined;
  options?: Partial<ImportOptions>;
}

function folder(of: typeof TIMM, { config, preprocessor, tensors }: Change = {}): string {
  const own = familyTensors(of);
  const dir = writeFamilyCheckpoint(at(`source-${folders++}`), of, tensors?.(own) ?? own, { ...of.config, ...config });
  if (preprocessor) writeFileSync(join(dir, "preprocessor_config.json"), JSON.stringify(preprocessor));
  return dir;
}

const convert = (of: typeof TIMM, change: Change = {}) => convertCheckpoint(folder(of, change), change.options ?? {});

describe("names that training scripts put before timm's", () => {
  const plain = convert(TIMM).network.tensors;
  test.each([
    "module.",
    "_orig_mod.",
    "model.",
    "backbone.",
    "net.",
    "module.model.",
    "model_ema.module.",
    "timm_model.",
  ])("%s", (prefix) => {
    const { network } = convert(TIMM, {
      tensors: (t) => new Map([...t].map(([name, value]) => [prefix + name, value])),
    });
    expect([...network.tensors]).toEqual([...plain]);
  });

  test("a backbone beside its head", () => {
    const rename = (name: string) => (name.startsWith("head") ? name : `backbone.${name}`);
    const { network } = convert(TIMM, {
      tensors: (t) => new Map([...t].map(([name, value]) => [rename(name), value])),
    });
    expect([...network.tensors]).toEqual([...plain]);
  });

  test("of trained and averaged weights, the averaged ones, which is said", () => {
    const { network, assumed } = convert(TIMM, {
      tensors: (t) =>
        new Map([
          ...[...t].map(
            ([name, value]) => [`model.${name}`, { ...value, data: new Float32Array(value.data.length) }] as const,
          ),
          ...[...t].map(([name, value]) => [`model_ema.${name}`, value] as const),
        ]),
    });
    expect([...network.tensors]).toEqual([...plain]);
    expect(assumed.join("\n")).toMatch(/the averaged weights \("model_ema\./);
  });
});

describe("architecture", () => {
  test("a config that lies beside a bare file is read", () => {
    const dir = folder(HF, { config: { num_attention_heads: 4, layer_norm_eps: 1e-3, hidden_act: "quick_gelu" } });
    const { network } = convertCheckpoint(join(dir, "model.safetensors"), {});
    expect(network.arch).toMatchObject({ headDim: 4, layerNormEps: 1e-3, activation: "quick_gelu" });
  });

  test("an eps is its library's: 1e-12 of transformers' ViT, 1e-6 of timm's, 1e-5 of CLIP", () => {
    const eps = (name: string) => convert(familyCase(name)).network.arch.layerNormEps;
    expect(["transformers: ViT", "timm: ViT", "timm: CLIP, quick GELU"].map(eps)).toEqual([1e-12, 1e-6, 1e-5]);
  });

  test("an oblong picture is not taken for a square of as many patches", () => {
    const change = { config: { pretrained_cfg: { input_size: [3, 16, 64] }, model_args: { num_heads: 2 } } };
    expect(convert(TIMM, change).network.arch.imageSize).toEqual([16, 64]);
    const bare = convertCheckpoint(writeFamilyCheckpoint(at("bare"), TIMM, familyTensors(TIMM), {}), { heads: 2 });
    expect(bare.network.arch.imageSize).toEqual([32, 32]);
    expect(bare.assumed.join("\n")).toMatch(/a square picture of 32×32 px, by its positions \(--image-size\)/);
  });

  test("several labels are scored by sigmoids", () => {
    const problem = { problem_type: "multi_label_classification" };
    expect(convert(HF, { config: problem }).network.arch.head).toEqual({ scores: "sigmoid" });
    expect(convert(HF).network.arch.head).toEqual({ scores: "softmax" });
  });

  test("a model without a classifier is an embedding model", () => {
    const headless = (t: Tensors) => new Map([...t].filter(([name]) => !name.startsWith("head.")));
    const { network, labels, assumed } = convert(TIMM, { tensors: headless });
    expect(network).toMatchObject({ classes: 0, arch: { pooling: "class" } });
    expect(network.arch.head).toBeUndefined();
    expect(labels).toEqual([]);
    expect(assumed.join("\n")).toMatch(/an embedding model, as there is no classifier; "slimvit classes"/);
  });

  test("a pooler that the embedding does not go through is said", () => {
    const floats = (...shape: number[]) => ({
      dtype: "F32" as const,
      shape,
      data: new Float32Array(shape[0] * (shape[1] ?? 1)),
    });
    const pooled = (t: Tensors) =>
      new Map([...t].filter(([name]) => !name.startsWith("classifier.")))
        .set("pooler.dense.weight", floats(16, 16))
        .set("pooler.dense.bias", floats(16));
    expect(convert(HF, { tensors: pooled }).assumed.join("\n")).toMatch(/the pooler \(tanh of a linear\) is left out/);
  });

  test("a classifier without biases has zeros", () => {
    const { network } = convert(TIMM, { tensors: (t) => new Map([...t].filter(([name]) => name !== "head.bias")) });
    expect(network.tensors.get("head.bias")!.data.every((v) => v === 0)).toBe(true);
  });

  test("CLIP and SigLIP keep what zero-shot scores need", () => {
    const clip = convert(familyCase("transformers: CLIP"));
    expect(clip.network.arch.projection).toBe(12);
    expect(clip.zeroShot).toMatchObject({ scores: "softmax", bias: 0 });
    const siglip = convert(familyCase("transformers: SigLIP"));
    expect(siglip.zeroShot!.scores).toBe("sigmoid");
    expect(siglip.zeroShot!.bias).not.toBe(0);
  });
});

describe("labels", () => {
  const names = ["tench, Tinca tinca", "1,000 dollars", "crane", "crane, bird", "x"];
  /** The first of several names, unless another class has it. */
  const shown = ["tench", "1,000 dollars", "crane", "crane, bird", "x"];
  const labelsOf = (change: Change, of = HF) => convert(of, change).labels.map(({ label }) => label);
  test("are id2label's first names", () => {
    expect(labelsOf({ config: { id2label: { ...names } } })).toEqual(shown);
  });
  test("are label2id's, turned round", () => {
    const label2id = Object.fromEntries(names.map((name, k) => [name, k]).reverse());
    expect(labelsOf({ config: { label2id } })).toEqual(shown);
  });
  test("are timm's label_names", () => {
    expect(labelsOf({ config: { label_names: names } }, TIMM)).toEqual(shown);
    expect(labelsOf({ config: { pretrained_cfg: { label_names: names } } }, TIMM)).toEqual(shown);
  });
  test("are numbered where nothing says them", () => {
    expect(labelsOf({})).toEqual(["class 0", "class 1", "class 2", "class 3", "class 4"]);
  });
});

test("the licence is the config's, timm's of the weights, or the model card's", () => {
  const license = (config: object) => convert(TIMM, { config }).license;
  expect(license({ license: "mit" })).toBe("mit");
  expect(license({ pretrained_cfg: { license: "apache-2.0" } })).toBe("apache-2.0");
  const dir = folder(TIMM);
  writeFileSync(join(dir, "README.md"), "---\ntags:\n- vision\nlicense: cc-by-4.0\n---\n# Model\n");
  expect(convertCheckpoint(dir, {}).license).toBe("cc-by-4.0");
});

describe("preprocessing", () => {
  const mean = [0.1, 0.2, 0.3];
  test.each<[string, object, Partial<Preprocess>]>([
    [
      "the old form, all at the top",
      { pretrained_cfg: undefined, mean, crop_pct: 0.8 },
      { mean: mean as never, resize: 40 },
    ],
    ["a crop mode that squashes", { pretrained_cfg: { crop_mode: "squash", crop_pct: 0.8 } }, { resize: [40, 40] }],
    [
      "one that adds borders",
      { pretrained_cfg: { crop_mode: "border", crop_pct: 1 } },
      { resize: [32, 32], fit: "contain" },
    ],
    ["a filter", { pretrained_cfg: { interpolation: "lanczos" } }, { interpolation: "lanczos" }],
  ])("timm's: %s", (_, config, wanted) => {
    expect(convert(TIMM, { config }).preprocess).toMatchObject(wanted);
  });

  test("timm's crop for an oblong network covers it: both sides are scaled alike", () => {
    const of = (crop_mode?: string) => {
      const config = { pretrained_cfg: { crop_pct: 0.8, ...(crop_mode && { crop_mode }) } };
      const arch = { imageSize: [32, 48] } as Architecture;
      return preprocessing(arch, { config, preprocessor: {} } as never, {}, "source", []);
    };
    expect(of()).toMatchObject({ resize: [40, 60], crop: [32, 48], fit: "cover" });
    expect(of("border")).toMatchObject({ resize: [40, 60], crop: [32, 48], fit: "contain" });
    expect(of("squash")).toMatchObject({ resize: [40, 60], crop: [32, 48] });
    expect(of("squash")).not.toHaveProperty("fit");
  });

  const usual = {
    image_mean: [0.5, 0.5, 0.5],
    image_std: [0.25, 0.25, 0.25],
    resample: 3,
    size: { height: 32, width: 32 },
  };
  test.each<[string, object, Partial<Preprocess>]>([
    ["nothing special", {}, { resize: [32, 32], crop: [32, 32], cropOffset: "floor", interpolation: "bicubic" }],
    [
      "pixels of 0 to 255",
      { do_rescale: false, image_mean: [127.5, 127.5, 127.5] },
      { mean: [0.5, 0.5, 0.5], std: [0.25 / 255, 0.25 / 255, 0.25 / 255] },
    ],
    ["pixels of 0 to 2", { rescale_factor: 2 / 255 }, { mean: [0.25, 0.25, 0.25], std: [0.125, 0.125, 0.125] }],
    ["no normalisation", { do_normalize: false }, { mean: [0, 0, 0], std: [1, 1, 1] }],
    ["a shorter side and a crop", { size: { shortest_edge: 36 }, do_center_crop: true }, { resize: 36 }],
    [
      "LeViT's way",
      { size: { shortest_edge: 35 }, do_center_crop: true, image_processor_type: "LevitImageProcessor" },
      { resize: 40 },
    ],
    [
      "ConvNeXt's way",
      { size: { shortest_edge: 32 }, crop_pct: 0.8, image_processor_type: "ConvNextImageProcessor" },
      { resize: 40 },
    ],
    ["each filter of Pillow's", { resample: 4 }, { interpolation: "box" }],
  ])("transformers': %s", (_, change, wanted) => {
    const { preprocess } = convert(HF, { preprocessor: { ...usual, ...change } });
    for (const [key, value] of Object.entries(wanted)) {
      const found = preprocess[key as keyof Preprocess];
      if (key === "mean" || key === "std")
        (value as number[]).forEach((v, c) => void expect((found as number[])[c]).toBeCloseTo(v, 9));
      else expect(found).toEqual(value);
    }
  });

  test.each([...["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"].entries()])(
    "the filter %i is Pillow's %s",
    (resample, interpolation) => {
      expect(convert(HF, { preprocessor: { ...usual, resample } }).preprocess).toMatchObject({ interpolation });
    },
  );

  test("ConvNeXt squashes pictures for 384 px and more, and crops for less", () => {
    const of = (shortest_edge: number) => {
      const preprocessor = { ...usual, size: { shortest_edge }, image_processor_type: "ConvNextImageProcessor" };
      return convert(HF, { preprocessor }).preprocess.resize;
    };
    expect([of(383), of(384)]).toEqual([Math.trunc(383 / (224 / 256)), [32, 32]]);
  });

  test("a filter that the file leaves out is its processor's own: bilinear of ViT's, bicubic of CLIP's", () => {
    const { resample: _, ...without } = usual;
    const of = (image_processor_type: string) => {
      const { preprocess, assumed } = convert(HF, { preprocessor: { ...without, image_processor_type } });
      expect(assumed.join("\n")).toMatch(/interpolation "\w+" \(transformers'; preprocessor_config\.json\)/);
      return preprocess.interpolation;
    };
    expect([of("ViTImageProcessor"), of("CLIPImageProcessor")]).toEqual(["bilinear", "bicubic"]);
  });

  test("steps that cannot be followed to the letter are said", () => {
    const said = (preprocessor: object) =>
      convert(HF, { preprocessor: { ...usual, ...preprocessor } }).assumed.join("\n");
    expect(said({ do_resize: false })).toMatch(/although do_resize is false/);
    expect(said({ size: { height: 64, width: 64 } })).toMatch(/the network's, not preprocessor_config\.json's 64×64/);
    expect(said({ do_normalize: false })).toMatch(/as do_normalize is false/);
  });
});
