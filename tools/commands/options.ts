/** The stages' arguments and options, said once: for the command line, and for the sections of a recipe file. */
import { Command, InvalidArgumentError, Option } from "commander";
import type { WeightsDtype } from "../../src/format/model.ts";
import type { EngineName, WebnnOptions } from "../../src/protocol.ts";
import { SPLITS } from "../data/data.ts";
import { MASK_MODES, type MaskMode, PATCH_FORMS, type PatchForm } from "../masks/masks.ts";
import { BACKENDS } from "../training/backend.ts";
import {
  addDataOptions,
  addTrainOptions,
  count,
  fraction,
  natural,
  number,
  positive,
  RECIPE_DEFAULTS,
} from "../training/options.ts";

export const ENGINES: (EngineName | "auto")[] = ["auto", "simd", "onnx-wasm", "reference"];

/** Of engine `webnn`. */
export const WEBNN_DEVICES: NonNullable<WebnnOptions["deviceType"]>[] = ["cpu", "gpu", "npu"];
export const DTYPES: WeightsDtype[] = ["f32", "f16", "int8"];

export const STAGES = ["import", "finetune", "search", "compress", "retrain", "export", "eval"] as const;
export type StageName = (typeof STAGES)[number];

export const MODEL: [string, string] = ["<model>", "model folder"];

/** @returns a fresh command without an action */
export function stageCommand(name: StageName): Command {
  return BUILDERS[name]();
}

export function newCommand(name: string, description: string, args: [string, string][]): Command {
  const command = withJson(new Command(name).description(description), args);
  return command.option("--seed <n>", "of everything random", natural);
}

/** Training commands have a --seed of their own, with a default. */
function withJson(command: Command, args: [string, string][]): Command {
  for (const [arg, what] of args) command.argument(arg, what);
  return command.option("--json", "one JSON value on stdout");
}

export const IMAGE_SIZE: [string, string] = [
  "--image-size <size>",
  "SIDE or HEIGHTxWIDTH in pixels; position embeddings and keep-lists are resampled",
];

const WEIGHT_STEP: [string, string, typeof positive] = [
  "--weight-step <s>",
  "int8 weights rounded to multiples of s root mean squares of a row: larger, fewer bytes",
  positive,
];

const BUILDERS: Record<StageName, () => Command> = {
  import: () =>
    newCommand("import", "timm or Hugging Face checkpoint → dense model folder", [
      ["<source>", ".safetensors file, or folder with config.json"],
    ])
      .requiredOption("-o, --out <folder>", "output folder")
      .option("--labels <file>", "one line a class: id TAB name")
      .option("--name <name>", "what the model is called")
      .option("--heads <n>", "attention heads", count)
      .option("--image-size <size>", "SIDE or HEIGHTxWIDTH in pixels", size)
      .option("--mean <r,g,b>", "of RGB in 0..1", triple)
      .option("--std <r,g,b>", "of RGB in 0..1", triple)
      .option("--eps <eps>", "of LayerNorm", positive)
      .option("--license <id>", "SPDX identifier")
      .option("--force", "replace the output folder"),

  search: () =>
    addTrainOptions(
      withJson(new Command("search").description("train soft masks jointly with the weights"), [MODEL]),
      SEARCH_RECIPE,
    )
      .addOption(
        new Option("--masks <mode>", "what an attention mask is shared by")
          .choices(MASK_MODES)
          .default(SEARCH_DEFAULTS.masks),
      )
      .option("--w-attn <w>", "weight of the attention masks' L1; 0 freezes them", number, SEARCH_DEFAULTS.wAttn)
      .option("--w-mlp <w>", "weight of the MLP masks' L1; 0 freezes them", number, SEARCH_DEFAULTS.wMlp)
      .option("--w-patch <w>", "weight of the patch masks' L1; 0 freezes them", number, SEARCH_DEFAULTS.wPatch)
      .option("--lr-mask <rate>", "AdamW's rate for the masks", positive, SEARCH_DEFAULTS.lrMask)
      .option(
        "--lr-mask-patch <rate>",
        "AdamW's rate for the patch masks, which start where tanh is flat",
        positive,
        SEARCH_DEFAULTS.lrMaskPatch,
      )
      .addOption(
        new Option(
          "--patch-form <form>",
          "how patch masks act: tanh ζ on the norms' outputs, as the reference, or on attention scores",
        )
          .choices(PATCH_FORMS)
          .default(SEARCH_DEFAULTS.patchForm),
      )
      .addOption(
        new Option("--tokens <rule>", "how the score form nests keep-lists")
          .choices(["union", "intersect"])
          .default("union"),
      )
      .option("--zeta-decay", "decay masks like weights, as the reference does")
      .option("--masks-only", "train masks and norms, keep the other weights"),

  compress: () =>
    newCommand("compress", "searched masks → physically slim model", [["<search>", "output folder of slimvit search"]])
      .requiredOption("-o, --out <folder>", "output folder")
      .option("--attn <budget>", "share of attention channels (or heads) to keep", fraction)
      .option("--mlp <budget>", "share of MLP units to keep", fraction)
      .option("--patch <budget>", "share of tokens over all blocks to keep", fraction)
      .option(
        "--macs [share]",
        "instead of three budgets: share of the searched model's dense MACs, split by importance",
        fraction,
      )
      .option("--params [share]", "the same for the dense parameters; tokens have none and stay", fraction)
      .option("--latency-ms <ms>", "instead: milliseconds on the device of --profile", positive)
      .option("--profile <file>", "what slimvit profile measured there")
      .option("--budgets <list>", "shares of MACs (or --params): a model each, OUT/macs-70 and so on", fractions)
      .addOption(
        new Option("--tokens <rule>", "a shallow block keeps what a deeper one needs; or dropped is dropped")
          .choices(["union", "intersect"])
          .default("union"),
      )
      .option("--absolute", "rank by |ζ| instead of signed ζ")
      .option(
        "--weights <model>",
        "dense model whose weights are cut in place of the search's, which then only chooses",
      )
      .option("--name <name>", "what the model is called")
      .option("--force", "replace the output folder"),

  retrain: () =>
    addTrainOptions(
      withJson(new Command("retrain").description("train the slim arithmetic itself"), [MODEL]),
      RECIPE_DEFAULTS,
    )
      .option(...IMAGE_SIZE, size)
      .option("--ghost", "start with a key in place of the removed tokens, gone by half time: no jump after the search")
      .option(...WEIGHT_STEP),

  finetune: () =>
    addTrainOptions(
      withJson(new Command("finetune").description("new head for the data's classes"), [MODEL]),
      FINETUNE_RECIPE,
    )
      .option("--lr-head <rate>", "AdamW's rate for the new head; default ten times --lr", positive)
      .option(...IMAGE_SIZE, size),

  export: () =>
    addDataOptions(newCommand("export", "weights for shipping", [MODEL]), "train", "pictures to round --weight-step by")
      .requiredOption("-o, --out <folder>", "output folder")
      .requiredOption("--dtype <list>", `of ${DTYPES.join(", ")}, separated by commas`, list(DTYPES))
      .option("--onnx", "write a standalone model.onnx too")
      .option(...WEIGHT_STEP)
      .option("--name <name>", "what the model is called; default the output folder's name")
      .option("--force", "replace the output folder"),

  eval: () =>
    addDataOptions(withEngine(newCommand("eval", "top-1 and top-5", [MODEL])), "all")
      .option("--limit <n>", "measure on n pictures spread over the data", count)
      .option("--against <model>", "compare with another model on the same pictures")
      .option("--record", "write the figures into the model's manifest and card"),
};

/**
 * The reference's loss weights for DeiT-S; a weight of 0 freezes its family. Patch masks start where tanh is flat (at 3) and
 * have further to go, so they move faster.
 */
const SEARCH_DEFAULTS = {
  masks: "channel" as MaskMode,
  wAttn: 2e-4,
  wMlp: 5e-5,
  wPatch: 1e-4,
  lrMask: 2e-3,
  lrMaskPatch: 1e-2,
  patchForm: "gate" as PatchForm,
};

const SEARCH_RECIPE = { ...RECIPE_DEFAULTS, weightDecay: 1e-3, schedule: "constant" as const };
const FINETUNE_RECIPE = { ...RECIPE_DEFAULTS, alpha: 0.5 };

export function withEngine(command: Command): Command {
  return command
    .addOption(new Option("--engine <name>", "of the runtime").choices(ENGINES).default("auto"))
    .addOption(new Option("--dtype <dtype>", "weights to use; default the most exact").choices(DTYPES))
    .option("--threads <n>", "of the engine", count, 1);
}

/** What `slim` takes beside a recipe file; all of it may be in the recipe as well. */
export function addSlimOptions(command: Command): Command {
  const all = (value: string, before: string[] = []) => [...before, value];
  return command
    .option("--data <source>", "folder or zip with one subfolder a class; may be given more than once", all)
    .option("-o, --out <folder>", "output folder")
    .option("--macs <share>", "share of the dense MACs, split over heads, MLPs and tokens by importance", fraction)
    .option("--params <share>", "instead: share of the dense parameters", fraction)
    .addOption(new Option("--split <split>", "which part of the data trains").choices(SPLITS))
    .option("--teacher <model>", "distilled in search and retrain; default the model that the search starts from")
    .option("--no-teacher", "learn from the labels alone")
    .option("--finetune", "new head for the data's classes first; default where they are not the model's")
    .option("--no-finetune", "keep the model's classes")
    .option("--epochs <n>", "of each training stage", positive)
    .option("--batch <n>", "pictures a step", count)
    .addOption(new Option("--backend <name>", "TensorFlow.js backend").choices([...BACKENDS]))
    .addOption(new Option("--precision <p>", "rounding of matrix products").choices(["f32", "bf16"]))
    .option("--dtype <list>", "weights to ship; default f32,int8", list(DTYPES))
    .option("--onnx", "write a standalone model.onnx too")
    .option("--set <stage.option=value>", "any stage's option, e.g. search.lr-mask=1e-3; may be given again", all)
    .option("--stages <folder>", "where stages are kept; default the output folder's name with .stages")
    .option("--force", "replace the output folder");
}

export function size(text: string): [number, number] {
  const match = text.match(/^(\d+)(?:[x×](\d+))?$/);
  if (!match) throw new InvalidArgumentError("expected SIDE or HEIGHTxWIDTH.");
  return [Number(match[1]), Number(match[2] ?? match[1])];
}

const fractions = (text: string): number[] => text.split(",").map(fraction);

/** BLOCK:PATCHES,… → patches by block */
export function keepList(text: string): Map<number, number> {
  return new Map(
    text.split(",").map((item) => {
      const match = item.match(/^(\d+):(\d+)$/);
      if (!match) throw new InvalidArgumentError("expected BLOCK:PATCHES, separated by commas.");
      return [Number(match[1]), Number(match[2])];
    }),
  );
}

function triple(text: string): [number, number, number] {
  const values = text.split(",").map(Number);
  if (values.length !== 3 || !values.every(Number.isFinite))
    throw new InvalidArgumentError("expected three numbers separated by commas.");
  return values as [number, number, number];
}

export function list<T extends string>(known: T[]): (text: string) => T[] {
  return (text) => {
    const items = text.split(",") as T[];
    if (!items.every((item) => known.includes(item)))
      throw new InvalidArgumentError(`expected ${known.join(", ")}, separated by commas.`);
    return items;
  };
}
