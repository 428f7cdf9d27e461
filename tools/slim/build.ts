/**
 * Makes the model of a point: widths are cut and compensated, the picture size is changed, patches merge or are dropped,
 * the head is solved again, and the dtype is set.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import {
  denseTokens,
  innerDim,
  type Manifest,
  type Model,
  type Tensors,
  type WeightsDtype,
} from "../../src/format/model.ts";
import { readSafetensors, writeSafetensors } from "../../src/format/safetensors.ts";
import { encodeTensors } from "../../src/format/write.ts";
import type { TF } from "../../src/tfjs/ops.ts";
import { resizeModel } from "../checkpoints/resize.ts";
import { type Picture, spread } from "../data/data.ts";
import { compensateFor } from "../masks/compensate.ts";
import { cutTensors, slimArchitecture } from "../masks/masks.ts";
import { WholeStreams } from "../masks/wholeStreams.ts";
import { writeFileAtomic } from "../models/folders.ts";
import { safetensorsMetadata } from "../models/metadata.ts";
import { type Answer, canRefit, refitHead } from "./refit.ts";
import { keyOf, type Setting, withTokens } from "./space.ts";

/**
 * The pictures by which a head is solved again: few train pictures to rank candidates, many before a
 * measurement on val.
 */
export type HeadPictures = "few" | "many";

/** Makes the models of one dense model. What took a calibration is kept in `folder`. */
export class Builder {
  private readonly cuts = new Map<string, Model>();
  private whole: Promise<WholeStreams> | undefined;

  /**
   * @param dense its tensors in f32
   * @param identity of the dense model and the pictures, for the names of the files
   * @param calibration pictures by which the cut widths are compensated
   * @param tf without it no widths are cut
   */
  constructor(
    readonly dense: Model,
    private readonly identity: string,
    private readonly calibration: Picture[],
    private readonly calibrationSize: [number, number],
    private readonly folder: string,
    private readonly tf?: TF,
  ) {}

  /**
   * Gives answers of a model and of the dense one on the same pictures, by which heads are solved again. Without it
   * heads stay.
   */
  answers?: (model: Model, pictures: HeadPictures) => Promise<{ slim: Answer[]; wanted: Float32Array[] }>;

  /** Awaited between the blocks of a compensation, which takes long. */
  turn?: () => Promise<void>;

  /** Builds the model that ships. */
  async build(setting: Setting): Promise<Model> {
    return encoded(await this.exact(setting), setting);
  }

  /** Builds a model with a head solved by some pictures, to rank candidates. */
  async buildCandidate(setting: Setting): Promise<Model> {
    return encoded(await this.withHead(setting, "few"), setting);
  }

  /** Builds a model with the dense model's head. */
  async buildRaw(setting: Setting): Promise<Model> {
    return encoded(await this.raw(setting), setting);
  }

  /** Builds a model in f32, from which each dtype is made. */
  async exact(setting: Setting): Promise<Model> {
    return this.withHead(setting, "many");
  }

  private async withHead(setting: Setting, pictures: HeadPictures): Promise<Model> {
    const model = await this.raw(setting);
    const isWhole = model.manifest === this.dense.manifest;
    if (isWhole || !this.answers || !canRefit(model.manifest)) return model;
    return { ...model, tensors: new Map([...model.tensors, ...(await this.headFor(setting, model, pictures))]) };
  }

  /** Kept in a file, whatever the dtype. */
  private async headFor(setting: Setting, model: Model, pictures: HeadPictures): Promise<Tensors> {
    const key = `${keyOf({ ...setting, dtype: "f16" })} by ${pictures} ${this.identity}`;
    const path = join(this.folder, "heads", `${hashOf(key)}.safetensors`);
    if (existsSync(path)) return readSafetensors(readFileSync(path), path) as Tensors;
    const { slim, wanted } = await this.answers!(encoded(model, setting), pictures);
    const tensors = refitHead(model.manifest, model.tensors, slim, wanted);
    const head: Tensors = new Map([...tensors].filter(([name]) => name.startsWith("head.")));
    writeFileAtomic(path, writeSafetensors(head));
    return head;
  }

  /** @throws Error for a point whose share of the MACs cannot be reached; `shapeOf` is asked before */
  private async raw(setting: Setting): Promise<Model> {
    const resized = resizeModel(await this.cut(setting), setting.size);
    const manifest = withTokens(resized.manifest, setting);
    if (!manifest) throw new Error(`No model has these settings: ${JSON.stringify(setting)}`);
    return { manifest, dtype: "f32", tensors: resized.tensors };
  }

  /**
   * A model of the same sizes with arbitrary channels and units, without compensation. It shows before the work how
   * small and how fast a model can become.
   */
  outline(setting: Setting): Model {
    const { manifest, tensors } = this.dense;
    const masks = manifest.blocks.map((block) => ({
      attn: firstOf(innerDim(block), setting.attn),
      mlp: firstOf(block.mlpHidden, setting.mlp),
      tokens: firstOf(denseTokens(manifest), 1).map((_, token) => block.keepIdx.includes(token)),
    }));
    const cut = {
      ...this.dense,
      manifest: slimArchitecture(manifest, masks),
      tensors: cutTensors(manifest, tensors, masks),
    };
    const resized = resizeModel(setting.attn === 1 && setting.mlp === 1 ? this.dense : cut, setting.size);
    const withFewer = withTokens(resized.manifest, setting) ?? resized.manifest;
    return { manifest: withFewer, dtype: setting.dtype, tensors: encodeTensors(resized.tensors, setting.dtype) };
  }

  private async cut({ attn, mlp }: Setting): Promise<Model> {
    if (attn === 1 && mlp === 1) return this.dense;
    const key = `attn ${attn} mlp ${mlp} ${this.identity}`;
    const known = this.cuts.get(key) ?? (await this.readOrCut(key, { attn, mlp }));
    this.cuts.set(key, known);
    return known;
  }

  private async readOrCut(key: string, shares: { attn: number; mlp: number }): Promise<Model> {
    const path = join(this.folder, `widths-${hashOf(key)}.safetensors`);
    const { manifest } = this.dense;
    if (existsSync(path)) {
      const bytes = readFileSync(path);
      const blocks: Manifest["blocks"] = JSON.parse(safetensorsMetadata(bytes).blocks);
      return { manifest: { ...manifest, blocks }, dtype: "f32", tensors: readSafetensors(bytes, path) as Tensors };
    }
    if (!this.tf) throw new Error("Widths are cut with TensorFlow.js alone.");
    const whole = await this.wholeStreams(this.tf);
    const { masks, tensors } = await compensateFor(whole, shares, this.turn);
    const slim = slimArchitecture(whole.arch, masks);
    const blocks = slim.blocks.map(({ headDims, mlpHidden }, i) => ({ ...manifest.blocks[i], headDims, mlpHidden }));
    for (const [name, tensor] of this.dense.tensors) if (isOfSize(name)) tensors.set(name, tensor);
    mkdirSync(this.folder, { recursive: true });
    writeFileAtomic(path, writeSafetensors(tensors, { blocks: JSON.stringify(blocks) }));
    return { manifest: { ...manifest, blocks }, dtype: "f32", tensors };
  }

  /** Frees the memory that cutting widths takes; the next cut takes it again. */
  async free(): Promise<void> {
    const whole = this.whole;
    this.whole = undefined;
    (await whole)?.dispose();
  }

  /** At a smaller size than the dense model's: most models of the search see such pictures, and it takes half of the time. */
  private wholeStreams(tf: TF): Promise<WholeStreams> {
    this.whole ??= WholeStreams.open(
      tf,
      resizeModel(this.dense, this.calibrationSize),
      spread(this.calibration, CALIBRATION_PICTURES),
      true,
    );
    return this.whole;
  }
}

/** Tensors that have another shape at another picture size. */
const isOfSize = (name: string) => name === "pos_embed" || name.endsWith(".rel_bias");

/** Pictures that are enough to rank widths. The 384 pictures of "slimvit compress" cost three times as much. */
const CALIBRATION_PICTURES = 128;

const firstOf = (count: number, share: number) =>
  Array.from({ length: count }, (_, k) => k < Math.max(1, Math.round(share * count)));

const hashOf = (key: string) => createHash("sha256").update(key).digest("hex").slice(0, 12);

const encoded = ({ manifest, tensors }: Model, { dtype }: Setting): Model => ({
  ...{ manifest, dtype },
  tensors: encodeTensors(tensors, dtype),
});

/** @returns the model with its tensors in f32 */
export function widened(model: Model): Model {
  const dtype: WeightsDtype = "f32";
  return { ...model, dtype, tensors: encodeTensors(model.tensors, dtype) };
}
