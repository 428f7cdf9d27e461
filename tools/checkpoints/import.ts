/**
 * slimvit import SRC -o MODEL: a checkpoint of timm, Hugging Face, torchvision or CLIP → a dense model folder. SRC is a
 * .safetensors file, or a folder with one (sharded or not), config.json and preprocessor_config.json. What the tensors
 * do not tell comes from the configs, else from the flags, else from timm's defaults, and is printed.
 */
import { basename } from "node:path";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { countMacs, countParams, type Label, type Preprocess, type ZeroShot } from "../../src/format/model.ts";
import { claimOutput, withStep, writeModel } from "../models/folders.ts";
import { say, si } from "../shared/terminal.ts";
import { type Json, readCheckpoint } from "./checkpoint.ts";
import type { Description } from "./description.ts";
import { refuseOtherFamilies } from "./families.ts";
import { describeHuggingFace, fromHuggingFace } from "./huggingFace.ts";
import { readLabels } from "./labels.ts";
import { type Naming, namingOf, OPEN_CLIP, rename, TORCHVISION, unwrap } from "./names.ts";
import { buildNetwork, type Network, refuseUnknownTensors } from "./network.ts";
import { describeClip, describeTorchvision } from "./otherSources.ts";
import { preprocessing } from "./preprocessing.ts";
import { describeTimm, fromTimm } from "./timm.ts";
import { type Stored, Weights } from "./weights.ts";

export interface ImportOptions {
  out: string;
  name?: string;
  labels?: string;
  heads?: number;
  imageSize?: [number, number];
  mean?: [number, number, number];
  std?: [number, number, number];
  eps?: number;
  license?: string;
  force?: boolean;
}

export async function importModel(source: string, options: ImportOptions): Promise<{ params: number; macs: number }> {
  claimOutput(options.out, options.force, [source, options.labels]);
  const { network, labels, preprocess, hashes, license, zeroShot, assumed } = convertCheckpoint(source, options);
  const { arch, tensors, classes } = network;
  for (const line of assumed) say(`import: assumed ${line}`);
  const name = options.name ?? basename(source.replace(/\/$/, "")).replace(/\.safetensors$/, "");
  const draft = {
    name,
    license: options.license ?? license ?? "unknown",
    ...arch,
    preprocess,
    labels,
    provenance: withStep({ source: { files: hashes }, ...(zeroShot && { zeroShot }) }, "import", { assumed }),
    metrics: {},
  };
  await writeModel(options.out, { draft, tensors, dtypes: ["f32"] }, options.force);
  const [params, macs] = [countParams(arch, classes), countMacs(arch, classes)];
  say(
    `import: ${name}, ${arch.blocks.length} blocks of ${arch.embedDim}, ${si(params)} parameters, ${si(macs)} MACs → ${options.out}`,
  );
  return { params, macs };
}

export interface Converted {
  network: Network;
  labels: Label[];
  preprocess: Preprocess;
  /** sha256 of each weights file */
  hashes: Record<string, string>;
  license?: string;
  zeroShot?: ZeroShot;
  /** assumptions that were made, one line each */
  assumed: string[];
}

/** Does all of an import except writing the folder. */
export function convertCheckpoint(source: string, options: Omit<ImportOptions, "out">): Converted {
  const { tensors: stored, configs, hashes, license } = readCheckpoint(source);
  return withKinds(kindsIn(configs.config), (kinds) => {
    const assumed: string[] = [];
    const { weights, described } = describe(stored, configs.config, kinds, source, assumed);
    applyFlags(described, options, source);
    const network = buildNetwork(weights, described, options.imageSize);
    const { arch, classes } = network;
    refuseOneOutput(network, source);
    const labels = classes ? readLabels(options.labels, configs.config, classes, assumed) : [];
    const preprocess = preprocessing(arch, configs, options, source, assumed);
    if (!classes)
      assumed.push(
        'an embedding model, as there is no classifier; "slimvit classes" or "slimvit finetune" gives it one',
      );
    return { network, labels, preprocess, hashes, license, zeroShot: described.zeroShot, assumed };
  });
}

/** Softmax over a single output is always 1. Without a problem_type, transformers takes such a model for a regression. */
function refuseOneOutput({ arch, classes }: Network, source: string): void {
  if (classes !== 1 || arch.head?.scores !== "softmax") return;
  throw new SlimViTError(
    "unsupported",
    `${source}: has one output, which transformers takes for a regression, and whose softmax is always 1. ` +
      'If it is trained by sigmoid, set problem_type "multi_label_classification" in config.json.',
  );
}

/** @returns what the config calls the network: model type, architecture */
function kindsIn({ model_type, architecture, architectures }: Json): string[] {
  const all = [model_type, architecture, ...(Array.isArray(architectures) ? architectures : [])];
  return all.filter((kind): kind is string => typeof kind === "string");
}

/** A refusal names the network as its config does. */
function withKinds<T>(kinds: string[], work: (kinds: string[]) => T): T {
  try {
    return work(kinds);
  } catch (error) {
    const isNamed = messageOf(error).includes(kinds.join(", "));
    if (!(error instanceof SlimViTError) || error.code !== "unsupported" || !kinds.length || isNamed) throw error;
    const called = `The config calls this network ${kinds.join(", ")}.`;
    throw new SlimViTError("unsupported", `${error.message} ${called}`, { cause: error });
  }
}

interface Source {
  names: (stored: Stored) => Stored;
  describe: (config: Json, weights: Weights, source: string) => Description;
}

const SOURCES: Record<Naming, Source> = {
  timm: { names: fromTimm, describe: describeTimm },
  huggingFace: { names: fromHuggingFace, describe: describeHuggingFace },
  torchvision: { names: (stored) => rename(stored, TORCHVISION), describe: describeTorchvision },
  openClip: { names: (stored) => rename(stored, OPEN_CLIP), describe: describeClip },
};

/** @param assumed the list that the description's own lines are added to, and that goes on with it */
function describe(
  stored: Stored,
  config: Json,
  kinds: string[],
  source: string,
  assumed: string[],
): { weights: Weights; described: Description } {
  refuseOtherFamilies(kinds, [...stored.keys()], source);
  const bare = unwrap(stored, assumed);
  const naming = namingOf(bare);
  const { names: renamed, describe: describeSource } = SOURCES[naming];
  const weights = new Weights(renamed(bare), source);
  refuseUnknownTensors(weights);
  const described = describeSource(config, weights, source);
  assumed.push(...described.assumed);
  described.assumed = assumed;
  return { weights, described };
}

/** Flags fill in what the config leaves out, and may not contradict it. */
function applyFlags(
  described: Description,
  { heads, eps }: Pick<ImportOptions, "heads" | "eps">,
  source: string,
): void {
  if (heads !== undefined) {
    if (described.heads !== undefined && described.heads !== heads)
      throw new SlimViTError(
        "bad-option",
        `${source}: --heads is ${heads} and its config says ${described.heads}; leave --heads out, or correct config.json.`,
      );
    described.heads = heads;
  }
  if (eps !== undefined) {
    described.layerNormEps = eps;
    described.assumed.splice(
      0,
      described.assumed.length,
      ...described.assumed.filter((line) => !line.includes("--eps")),
    );
  }
}
