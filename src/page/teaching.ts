/**
 * Classes of the caller's own: pictures are embedded, and the worker fits a head to the embeddings. Part of
 * dist/teaching.js, which only pages that teach load.
 */
import { SlimViTError } from "../errors.ts";
import type {
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
import { oneVariant } from "./advice.ts";
import { embedAll } from "./batchOf.ts";
import type { Client } from "./client.ts";
import { checkOptions, type Names } from "./options.ts";

const TEACH: Names<TeachOptions> = { falseRejection: true, onProgress: true, signal: true };
const SAVE: Names<SaveOptions> = { name: true, embeddings: true };

/** Changes of one model, one after the other. */
const changes = new WeakMap<object, Promise<unknown>>();

/** Changes of one model wait for one another, so that none is lost. */
function inOrder(client: Client, change: () => Promise<TaughtModel>): Promise<Client> {
  const result = (changes.get(client) ?? Promise.resolve()).then(change, change).then((model) => become(client, model));
  changes.set(
    client,
    result.catch(() => {}),
  );
  return result;
}

/**
 * @returns another model on the same worker; of a taught model, the same one
 * @throws SlimViTError `unsupported` for a folder whose variants may change, `bad-input` for what are no pictures, naming the
 *   class, and for too few of them
 */
export async function teach(client: Client, pictures: TeachPictures, options: TeachOptions): Promise<Client> {
  await checkOptions("teach", options, TEACH);
  if (client.shared.mayChange) throw new SlimViTError("unsupported", oneVariant());
  const change = () => learn(client, pictures, options);
  if (client.info.taught) return inOrder(client, change);
  const other = client.another();
  try {
    return become(other, await change());
  } catch (error) {
    other.dispose();
    throw error;
  }
}

function become(client: Client, model: TaughtModel): Client {
  let known: { of: ModelInfo; info: ModelInfo } | undefined;
  const { head, info: taught, params, macs } = model;
  const describe = (of: ModelInfo) => {
    if (known?.of !== of) known = { of, info: { ...of, labels: head.labels, taught, params, macs } };
    return known.info;
  };
  client.taught = { model, describe };
  return client;
}

async function ask(
  client: Client,
  request: TeachRequest,
  signal?: AbortSignal,
  onProgress?: (done: number) => void,
): Promise<TeachResult> {
  // Progress comes over a port of its own, and may arrive after the result.
  let [last, isDone] = [0, false];
  const report = onProgress && client.shared.pass((done: number) => void (isDone || onProgress((last = done))));
  try {
    const result = await client.ask(signal, (host, call) => host.teach(call, request, report) as Promise<TeachResult>);
    if (last < 1) onProgress?.(1);
    return result;
  } finally {
    isDone = true;
  }
}

/** @returns what the model knew, if it was taught before, and these pictures */
async function learn(client: Client, pictures: TeachPictures, options: TeachOptions): Promise<TaughtModel> {
  const lists = listsOf(pictures);
  const known = await knowledgeOf(client, options.signal);
  const names = [...new Set([...(known?.names ?? []), ...lists.keys()])];
  const places = [...lists].flatMap(([name, list]) =>
    list.map((picture, at) => ({ name, picture, at, of: list.length })),
  );
  const report = reporter(options);
  const embeddings: Float32Array[] = [];
  const inputs = places.map(({ picture }) => picture);
  report({ step: "embed", done: 0, total: inputs.length });
  for await (const { index, result, error } of embedAll(client, inputs, { signal: options.signal })) {
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
  return fitModel(client, joined(known, more), options);
}

/** @throws SlimViTError `bad-option` for a class that the model does not have, `unsupported` for one that was not taught */
export async function forget(client: Client, names: readonly string[], options: TeachOptions): Promise<Client> {
  await checkOptions("forget", options, TEACH);
  return inOrder(client, () => unlearn(client, names, options));
}

async function unlearn(client: Client, names: readonly string[], options: TeachOptions): Promise<TaughtModel> {
  const known = await knowledgeOf(client, options.signal);
  if (!known) throw notTaught(client);
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
  return fitModel(client, joined(undefined, { names: left, classOf, embeddings }), options);
}

/** @returns the files of a model folder */
export async function save(client: Client, options: SaveOptions): Promise<File[]> {
  await checkOptions("save", options, SAVE);
  const model = client.taught?.model ?? (await refitModel(client));
  const { files } = await ask(client, { want: "save", model, options });
  return Object.entries(files!).map(([name, blob]) => new File([blob], name));
}

/** Fits the head of a model that was loaded as a taught one; the same embeddings give the same head. */
async function refitModel(client: Client): Promise<TaughtModel> {
  const known = await knowledgeOf(client);
  if (!known) throw notTaught(client);
  return fitModel(client, known, {});
}

async function knowledgeOf(client: Client, signal?: AbortSignal): Promise<Taught | undefined> {
  if (client.taught) return client.taught.model.taught;
  return client.info.taught ? (await ask(client, { want: "recall" }, signal)).taught : undefined;
}

async function fitModel(client: Client, taught: Taught, options: TeachOptions): Promise<TaughtModel> {
  const { falseRejection = client.info.taught?.accepted, signal } = options;
  const report = reporter(options);
  const { model } = await ask(client, { want: "fit", taught, falseRejection }, signal, (done) =>
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

function notTaught({ info }: Client): SlimViTError {
  return new SlimViTError("unsupported", `${info.name} was not taught; call teach first.`);
}

/** Reports progress. Errors of the caller's function are ignored. */
function reporter({ onProgress, signal }: TeachOptions): (progress: TeachProgress) => void {
  return (progress) => {
    if (signal?.aborted) return;
    try {
      onProgress?.(progress);
    } catch {}
  };
}
