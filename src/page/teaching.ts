/**
 * A model's classes of the caller's own: pictures are embedded, the worker fits a head to the embeddings. It is in
 * dist/teaching.js, which only pages that teach load.
 */
import { SlimViTError } from "../errors.ts";
import type {
  BatchResult,
  EmbedAllOptions,
  ImageInput,
  ModelInfo,
  SaveOptions,
  Taught,
  TaughtModel,
  TeachOptions,
  TeachPictures,
  TeachProgress,
  TeachRequest,
  TeachResult,
} from "../protocol.ts";

/** What of a model is needed to teach it. */
export interface Pupil {
  readonly info: ModelInfo;
  /** What it was taught in this page. A model that was loaded taught is asked for it. */
  readonly model: TaughtModel | undefined;
  embedAll(inputs: ImageInput[], options: EmbedAllOptions): AsyncGenerator<BatchResult<ImageInput, Float32Array>>;
  /** Calls the worker. */
  ask(request: TeachRequest, signal?: AbortSignal, onProgress?: (done: number) => void): Promise<TeachResult>;
}

/** Changes of one model, one after the other. */
const changes = new WeakMap<object, Promise<unknown>>();

/** @param owner whose changes wait for one another, so that none is lost */
export function inOrder<T>(owner: object, change: () => Promise<T>): Promise<T> {
  const result = (changes.get(owner) ?? Promise.resolve()).then(change, change);
  changes.set(
    owner,
    result.catch(() => {}),
  );
  return result;
}

/**
 * @returns the model with what it knew, if it was taught before, and with these pictures
 * @throws SlimViTError `bad-input` for what are no pictures, naming the class, and for too few of them
 */
export async function teach(pupil: Pupil, pictures: TeachPictures, options: TeachOptions): Promise<TaughtModel> {
  const lists = listsOf(pictures);
  const known = await knowledgeOf(pupil, options.signal);
  const names = [...new Set([...(known?.names ?? []), ...lists.keys()])];
  const places = [...lists].flatMap(([name, list]) =>
    list.map((picture, at) => ({ name, picture, at, of: list.length })),
  );
  const report = reporter(options);
  const embeddings: Float32Array[] = [];
  const inputs = places.map(({ picture }) => picture);
  report({ step: "embed", done: 0, total: inputs.length });
  for await (const { index, result, error } of pupil.embedAll(inputs, { signal: options.signal })) {
    if (error) {
      if (error.code === "aborted" || error.code === "disposed") throw error;
      const { name, at, of } = places[index];
      const message = `Class ${JSON.stringify(name)}, picture ${at + 1} of ${of}: ${error.message}`;
      throw new SlimViTError(error.code, message, { cause: error });
    }
    embeddings.push(result);
    report({ step: "embed", done: index + 1, total: inputs.length });
  }
  const more = { names, classOf: Int32Array.from(places, ({ name }) => names.indexOf(name)), embeddings };
  return fitModel(pupil, joined(known, more), options);
}

/** @throws SlimViTError `bad-option` for a class that the model does not have, `unsupported` for one that was not taught */
export async function forget(pupil: Pupil, names: readonly string[], options: TeachOptions): Promise<TaughtModel> {
  const known = await knowledgeOf(pupil, options.signal);
  if (!known) throw notTaught(pupil);
  const missing = names.find((name) => !known.names.includes(name));
  if (missing !== undefined) {
    const has = known.names.map((name) => JSON.stringify(name)).join(", ");
    throw new SlimViTError("bad-option", `forget names ${JSON.stringify(missing)}; the classes are ${has}.`);
  }
  const left = known.names.filter((name) => !names.includes(name));
  const dim = known.embeddings.length / known.classOf.length;
  const rows = [...known.classOf.keys()].filter((row) => left.includes(known.names[known.classOf[row]]));
  const classOf = Int32Array.from(rows, (row) => left.indexOf(known.names[known.classOf[row]]));
  const embeddings = rows.map((row) => known.embeddings.subarray(row * dim, (row + 1) * dim));
  return fitModel(pupil, joined(undefined, { names: left, classOf, embeddings }), options);
}

/** @returns the files of a model folder */
export async function save(pupil: Pupil, options: SaveOptions): Promise<File[]> {
  const model = pupil.model ?? (await refitModel(pupil));
  const { files } = await pupil.ask({ want: "save", model, options });
  return Object.entries(files!).map(([name, blob]) => new File([blob], name));
}

/** Of a model that was loaded taught: the same embeddings give the same head. */
async function refitModel(pupil: Pupil): Promise<TaughtModel> {
  const known = await knowledgeOf(pupil);
  if (!known) throw notTaught(pupil);
  return fitModel(pupil, known, {});
}

async function knowledgeOf(pupil: Pupil, signal?: AbortSignal): Promise<Taught | undefined> {
  if (pupil.model) return pupil.model.taught;
  return pupil.info.taught ? (await pupil.ask({ want: "recall" }, signal)).taught : undefined;
}

async function fitModel(pupil: Pupil, taught: Taught, options: TeachOptions): Promise<TaughtModel> {
  const { falseRejection = pupil.info.taught?.accepted, signal } = options;
  const report = reporter(options);
  const { model } = await pupil.ask({ want: "fit", taught, falseRejection }, signal, (done) =>
    report({ step: "fit", done, total: 1 }),
  );
  return model!;
}

function joined(known: Taught | undefined, more: Omit<Taught, "embeddings"> & { embeddings: Float32Array[] }): Taught {
  const before = known?.embeddings.length ?? 0;
  const embeddings = new Float32Array(before + more.embeddings.reduce((sum, one) => sum + one.length, 0));
  if (known) embeddings.set(known.embeddings);
  let at = before;
  for (const one of more.embeddings) {
    embeddings.set(one, at);
    at += one.length;
  }
  return { names: more.names, classOf: Int32Array.from([...(known?.classOf ?? []), ...more.classOf]), embeddings };
}

/** @throws SlimViTError `bad-input` */
function listsOf(pictures: TeachPictures): Map<string, ImageInput[]> {
  const lists = new Map<string, ImageInput[]>();
  if (typeof pictures !== "object" || pictures === null)
    throw new SlimViTError("bad-input", `teach was given ${String(pictures)}; expected { class: pictures, … }.`);
  for (const [name, list] of Object.entries(pictures)) {
    if (typeof list === "object" && list !== null && Symbol.iterator in list) lists.set(name, [...list]);
    else {
      const fault = `Class ${JSON.stringify(name)} is ${String(list)}; expected a list of pictures.`;
      throw new SlimViTError("bad-input", fault);
    }
  }
  return lists;
}

function notTaught({ info }: Pupil): SlimViTError {
  return new SlimViTError("unsupported", `${info.name} was not taught; call teach first.`);
}

/** What the caller's function throws is the caller's own affair. */
function reporter({ onProgress, signal }: TeachOptions): (progress: TeachProgress) => void {
  return (progress) => {
    if (signal?.aborted) return;
    try {
      onProgress?.(progress);
    } catch {}
  };
}
