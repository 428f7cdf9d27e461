/** What passes between page and worker for `teach`. Part of protocol.ts, which exports it. */
import type { Label, UnknownRule } from "./format/model.ts";
import type { ImageInput } from "./pictures.ts";
import type { Instance } from "./platform.ts";

/** The pictures of each class, by the class's name. */
export type TeachPictures = Readonly<Record<string, Iterable<ImageInput>>>;

export interface TeachOptions {
  /**
   * The share of pictures of its own classes that the model may call unknown; default 0.05, or the model's present
   * share.
   */
  falseRejection?: number;
  onProgress?: (progress: TeachProgress) => void;
  signal?: Instance<"AbortSignal">;
}

export interface TeachProgress {
  /** First all pictures are embedded, then the classes are fitted. */
  step: "embed" | "fit";
  /** pictures when embedding; the fraction from 0 to 1 when fitting */
  done: number;
  /** all pictures when embedding; 1 when fitting */
  total: number;
}

export interface SaveOptions {
  /** The saved model's name; default the loaded model's name with "-taught". */
  name?: string;
  /** Saves the pictures' embeddings, so that the model can be taught more when it is loaded again; default true. */
  embeddings?: boolean;
}

/** What a model was taught with, and its measured accuracy. */
export interface TaughtInfo {
  /** pictures of each class, in the order of `labels` */
  pictures: number[];
  /** Cross-validated: the share of the pictures that a fit without them classifies correctly. */
  accuracy: number;
  /** number of pictures behind `accuracy` */
  n: number;
  /** The number of parts that the pictures were split into. Each part is classified by a fit to the others. */
  folds: number;
  /** The inverse strength of the chosen penalty, for embeddings at a mean square of 1. */
  c: number;
  /** When `classify` calls a picture unknown. */
  unknown: UnknownRule;
  /** The `falseRejection` that was asked for. */
  accepted: number;
}

/** Embeddings of pictures whose classes are known. */
export interface Taught {
  /** names of the classes, in the order of the head's outputs */
  names: string[];
  /** [pictures]: index of each one's class */
  classOf: Int32Array;
  /** [pictures, featureDim] */
  embeddings: Float32Array;
}

/** A head that replaces the network's own. */
export interface TaughtHead {
  labels: Label[];
  /** [classes, featureDim] */
  weight: Float32Array;
  /** [classes] */
  bias: Float32Array;
  /** [classes, featureDim]: the mean embedding of each class */
  means: Float32Array;
  unknown: UnknownRule;
}

/** The parts of a taught model that are not the network. */
export interface TaughtModel {
  head: TaughtHead;
  info: TaughtInfo;
  taught: Taught;
  /** with this head */
  params: number;
  macs: number;
}

/** fit: a head for these pictures; recall: what the loaded folder was taught with; save: the files of a model folder. */
export type TeachRequest =
  | { want: "fit"; taught: Taught; falseRejection?: number }
  | { want: "recall" }
  | { want: "save"; model: TaughtModel; options: SaveOptions };

/** The parts that the request asks for. */
export interface TeachResult {
  model?: TaughtModel;
  taught?: Taught;
  files?: Record<string, Blob>;
}
