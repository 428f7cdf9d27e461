/**
 * Measures points with the shipped engine: divergence from the dense model, loss of accuracy on val, latency. Each
 * result is stored at once in a file of its own, so the same command continues.
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openSimd } from "../../src/engines/simd/engine.ts";
import { countMacs, type Model } from "../../src/format/model.ts";
import { selfTestPixels } from "../../src/format/write.ts";
import { softmax } from "../../src/reference/scores.ts";
import type { Picture } from "../data/data.ts";
import { fileBytes, writeFileAtomic } from "../models/folders.ts";
import { klDivergence } from "../shared/divergence.ts";
import { bestClass, rankOf } from "../shared/ranks.ts";
import { say } from "../shared/terminal.ts";
import { freeThreads } from "../shared/threads.ts";
import type { Builder } from "./build.ts";
import { PixelCache } from "./pixelCache.ts";
import type { Answer } from "./refit.ts";
import type { Closeness, Measurer } from "./search.ts";
import {
  DENSE,
  keyOf,
  lossText,
  type Point,
  type Setting,
  type Space,
  settingOf,
  settingText,
  shapeOf,
} from "./space.ts";
import type { Stops } from "./stops.ts";

/** Answers on pictures, in their order. */
export interface Answers {
  /** the best class, −1 where there is none */
  best: number[];
  /** classes that score at least as high as the right one, 5 for more; empty for unlabelled pictures */
  ranks: number[];
}

/** The pictures of a measurement. */
export interface Measuring {
  /** by which candidates' heads are solved again */
  calibration: Picture[];
  /** by which heads of points that val sees are solved again */
  solving: Picture[];
  /** some of `held`, for the first look at a candidate */
  firstLook: Picture[];
  /** unused when cuts are chosen, to rank candidates */
  held: Picture[];
  /** to choose among few */
  val: Picture[];
  /** the model's output by class folder; none for unlabelled pictures */
  indices?: Map<string, number>;
}

/** The content of a point's file. */
interface Record {
  key: string;
  closeness?: Closeness[];
  val?: Answers;
  bytes?: number;
  ms?: number;
}

/** Held-back pictures of the first look at a candidate. */
export const FIRST_LOOK = 40;
const RUNS = 9;
/** Pictures after which Ctrl-C is looked for. */
const TURN = 8;

/** The costs that a target can limit. */
export type CostName = "work" | "macs" | "bytes" | "ms";

export class PointMeasurer implements Measurer {
  private readonly records = new Map<string, Record>();
  private readonly pixels: PixelCache;
  private readonly wanted = new Map<Picture[], Float32Array[]>();
  /**
   * @param identity of the model, the pictures and the engine: nothing that was measured with another one is taken
   * @param settings.costName what `cost` counts; "work" is MACs, those of int8 times `int8Factor`
   */
  constructor(
    private readonly builder: Builder,
    private readonly space: Space,
    private readonly pictures: Measuring,
    private readonly settings: {
      costName: CostName;
      int8Factor: number;
      identity: string;
      folder: string;
      stops: Stops;
      /** of the model that is compared with, where it is not the one that the points are made of */
      against?: PointMeasurer;
    },
  ) {
    this.pixels = settings.against?.pixels ?? new PixelCache();
    const picturesOf = { few: pictures.calibration, many: pictures.solving };
    builder.answers ??= async (model, by) => {
      const wanted = await this.dense.ownLogits(picturesOf[by]); // first, to find unreadable pictures
      return { slim: await this.run(model, picturesOf[by]), wanted };
    };
  }

  private get dense(): PointMeasurer {
    return this.settings.against ?? this;
  }

  /** The dense model in 16 bits, from which the points are made and with which everything is compared. */
  get reference(): Setting {
    return { ...settingOf(this.space, DENSE), dtype: "f16" };
  }

  /**
   * The number of times that a network was run over pictures in this process, without results that files already had.
   */
  runs = 0;

  async cost(point: Point): Promise<number | undefined> {
    const setting = settingOf(this.space, point);
    const macs = this.macs(setting);
    if (macs === undefined) return undefined;
    const { costName, int8Factor } = this.settings;
    if (costName === "macs") return macs;
    if (costName === "work") return macs * (setting.dtype === "int8" ? int8Factor : 1);
    return costName === "bytes" ? this.bytes(setting) : this.ms(setting);
  }

  /** Undefined for a point that cannot be built. */
  macs(setting: Setting): number | undefined {
    const { manifest } = this.builder.dense;
    const shape = shapeOf(manifest, setting);
    return shape && countMacs(shape, manifest.labels.length);
  }

  /** Bytes of the file that ships. */
  async bytes(setting: Setting): Promise<number> {
    return (await this.known(setting, "bytes", async () => {
      const { tensors } = await this.builder.exact(setting);
      return fileBytes(tensors, setting.dtype);
    }))!;
  }

  /** Median of some runs on one thread. */
  async ms(setting: Setting): Promise<number> {
    return (await this.known(
      setting,
      "ms",
      async () => (await timeInTurn([await this.builder.buildRaw(setting)], RUNS))[0],
    ))!;
  }

  async closeness(point: Point, stage: 0 | 1): Promise<Closeness> {
    const setting = settingOf(this.space, point);
    const record = this.recordOf(setting);
    const known = record.closeness?.[stage];
    if (known) return known;
    const pictures = stage === 0 ? this.pictures.firstLook : this.pictures.held;
    const wanted = await this.dense.ownLogits(pictures);
    const model = stage === 0 ? await this.builder.buildRaw(setting) : await this.builder.buildCandidate(setting);
    const logits = await this.answer(model, pictures);
    const close = closenessOf(logits, wanted);
    const closeness = record.closeness ?? [];
    closeness[stage] = close;
    this.store({ ...record, closeness });
    return close;
  }

  async loss(point: Point): Promise<number> {
    const setting = settingOf(this.space, point);
    const isKnown = this.recordOf(setting).val !== undefined;
    const loss = lossOf(await this.onVal(setting), await this.dense.onVal(this.dense.reference));
    if (!isKnown) say(`slim: ${lossText(loss)} on val: ${settingText(setting)}, ${setting.dtype}`);
    return loss;
  }

  /** Answers on the val pictures. */
  async onVal(setting: Setting): Promise<Answers> {
    return (await this.known(setting, "val", async () =>
      this.answersOf(await this.builder.build(setting), this.pictures.val),
    ))!;
  }

  /** Answers of any model, such as a trained one. */
  async answersOf(model: Model, pictures: Picture[]): Promise<Answers> {
    const logits = await this.answer(model, pictures);
    const { indices } = this.pictures;
    const readable = this.pixels.readable(pictures);
    return {
      best: logits.map((values) => bestClass(values) ?? -1),
      ranks: indices ? logits.map((values, k) => Math.min(5, rankOf(values, indices.get(readable[k].className)!))) : [],
    };
  }

  /** Logits of the model that the points are made of. */
  private async ownLogits(pictures: Picture[]): Promise<Float32Array[]> {
    const known = this.wanted.get(pictures) ?? (await this.answer(await this.builder.build(this.reference), pictures));
    this.wanted.set(pictures, known);
    return known;
  }

  private async answer(model: Model, pictures: Picture[]): Promise<Float32Array[]> {
    return (await this.run(model, pictures)).map(({ logits }) => logits);
  }

  /** Answers on the pictures that can be read. */
  private async run(model: Model, pictures: Picture[]): Promise<Answer[]> {
    const { stops } = this.settings;
    await stops.turn();
    const engine = await openSimd(model, { threads: freeThreads() });
    try {
      const answers: Answer[] = [];
      for await (const input of this.pixels.each(pictures, model.manifest)) {
        const { logits, features } = await engine.run(input);
        answers.push({ logits: logits.slice(), features: features.slice() });
        if (answers.length % TURN === 0) await stops.turn();
      }
      this.runs++;
      return answers;
    } finally {
      engine.dispose();
    }
  }

  private async known<K extends "val" | "bytes" | "ms">(setting: Setting, what: K, measure: () => Promise<Record[K]>) {
    const record = this.recordOf(setting);
    if (record[what] !== undefined) return record[what];
    const value = await measure();
    this.store({ ...this.recordOf(setting), [what]: value });
    return value;
  }

  private recordOf(setting: Setting): Record {
    const key = keyOf(setting);
    const path = this.pathOf(key);
    const known =
      this.records.get(key) ?? (existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")) as Record) : { key });
    this.records.set(key, known);
    return known;
  }

  private store(record: Record): void {
    this.records.set(record.key, record);
    writeFileAtomic(this.pathOf(record.key), `${JSON.stringify(record)}\n`);
  }

  private pathOf(key: string): string {
    const { identity, folder } = this.settings;
    const name = createHash("sha256").update(`${identity} ${key}`).digest("hex").slice(0, 16);
    return join(folder, "points", `${name}.json`);
  }
}

/** Points of top-1 that are lost, of pictures with labels; else points of agreement on the best class. */
export function lossOf(own: Answers, dense: Answers): number {
  const n = dense.best.length;
  if (!dense.ranks.length) return (100 * dense.best.filter((best, k) => own.best[k] !== best || best < 0).length) / n;
  const right = ({ ranks }: Answers) => ranks.filter((rank) => rank < 1).length;
  return (100 * (right(dense) - right(own))) / n;
}

/** Mean divergence of the distributions, Σ q·ln(q/p), and how often the best classes differ. */
function closenessOf(logits: Float32Array[], wanted: Float32Array[]): Closeness {
  let [divergence, other] = [0, 0];
  logits.forEach((values, k) => {
    divergence += klDivergence(softmax(wanted[k]), softmax(values));
    const best = bestClass(values);
    if (best === undefined || best !== bestClass(wanted[k])) other++;
  });
  const n = Math.max(1, logits.length);
  // A distribution with NaN counts as infinitely far away.
  return { divergence: Number.isFinite(divergence) ? divergence / n : Number.MAX_VALUE, disagreement: other / n };
}

/**
 * Median milliseconds of each model on one thread. The models run in turn, so that whatever else the machine does falls on all
 * of them alike.
 */
export async function timeInTurn(models: Model[], rounds: number): Promise<number[]> {
  const engines = [];
  for (const model of models) engines.push(await openSimd(model, { threads: 1 }));
  try {
    const pixels = models.map(({ manifest }) => selfTestPixels(manifest, 1));
    const times: number[][] = models.map(() => []);
    for (let round = -1; round < rounds; round++) {
      for (const [k, engine] of engines.entries()) {
        const start = performance.now();
        await engine.run(pixels[k]);
        if (round >= 0) times[k].push(performance.now() - start); // the first round warms up
      }
    }
    return times.map((list) => list.sort((a, b) => a - b)[list.length >> 1]);
  } finally {
    for (const engine of engines) engine.dispose();
  }
}
