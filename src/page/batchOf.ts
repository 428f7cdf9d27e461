/**
 * Any number of pictures, with a result for each. Part of dist/batch-of.js, which only pages that call `classifyAll` or
 * `embedAll` load.
 */
import { messageOf, SlimViTError } from "../errors.ts";
import type {
  BatchProgress,
  BatchResult,
  Classification,
  ClassifyAllOptions,
  ClassifyOptions,
  EmbedAllOptions,
  ImageInput,
} from "../protocol.ts";
import type { Client } from "./client.ts";
import { CLASSIFY, checkOptions, EMBED, type Names } from "./options.ts";

export const CLASSIFY_ALL: Names<ClassifyAllOptions> = { ...CLASSIFY, concurrency: true, onProgress: true };
export const EMBED_ALL: Names<EmbedAllOptions> = { ...EMBED, concurrency: true, onProgress: true };

type Inputs<T> = Iterable<T> | AsyncIterable<T>;

export async function* classifyAll<T extends ImageInput>(
  client: Client,
  inputs: Inputs<T>,
  options: ClassifyAllOptions,
): AsyncGenerator<BatchResult<T, Classification>> {
  await checkOptions("classifyAll", options, CLASSIFY_ALL);
  yield* allOf(client, inputs, options, (one, rest) => client.classify(one, rest));
}

export async function* embedAll<T extends ImageInput>(
  client: Client,
  inputs: Inputs<T>,
  options: EmbedAllOptions,
): AsyncGenerator<BatchResult<T, Float32Array>> {
  await checkOptions("embedAll", options, EMBED_ALL);
  yield* allOf(client, inputs, options, (one, rest) => client.embed(one, rest));
}

function allOf<T extends ImageInput, R>(
  { inFlight, calls }: Client,
  inputs: Inputs<T>,
  { concurrency = inFlight, onProgress, signal, ...rest }: ClassifyAllOptions,
  work: (one: T, options: ClassifyOptions) => Promise<R>,
): AsyncGenerator<BatchResult<T, R>> {
  const settle = <S>(step: () => Promise<S>) => calls.settle(signal, step);
  return batchOf(inputs, { concurrency, onProgress, settle }, (one, left) => work(one, { ...rest, signal: left }));
}

interface BatchOptions {
  concurrency: number;
  onProgress?: (progress: BatchProgress) => void;
  /** Rejects at once when the caller aborts or the model is gone. */
  settle: <T>(work: () => Promise<T>) => Promise<T>;
}

/** An input and its result or error. */
type Answer<T, R> = { input: T } & ({ result: R } | { error: SlimViTError });

/**
 * Every input's result or error, in the inputs' order. The next input is asked for when it can be sent; a slow source of
 * inputs does not hold back answers.
 *
 * @param work settles soon when its signal fires
 * @throws SlimViTError `aborted` and `disposed`, which end the batch; `bad-option` and `bad-input` before it; what the source of inputs throws
 */
export async function* batchOf<T extends ImageInput, R>(
  inputs: Inputs<T>,
  { concurrency, onProgress, settle }: BatchOptions,
  work: (input: T, signal: AbortSignal) => Promise<R>,
): AsyncGenerator<BatchResult<T, R>> {
  if (!Number.isSafeInteger(concurrency) || concurrency < 1)
    throw new SlimViTError("bad-option", `concurrency is ${concurrency}; expected a whole number of at least 1.`);
  if (typeof inputs !== "object" || !inputs || !(Symbol.iterator in inputs || Symbol.asyncIterator in inputs))
    throw new SlimViTError("bad-input", `The inputs are ${String(inputs)}; expected a list of pictures.`);
  const left = new AbortController();
  const source = Symbol.asyncIterator in inputs ? inputs[Symbol.asyncIterator]() : inputs[Symbol.iterator]();
  const inFlight: Promise<Answer<T, R>>[] = [];
  const progress: BatchProgress = { done: 0, failed: 0, ...totalOf(inputs) };
  let asked: Promise<IteratorResult<T>> | undefined;
  let isAtEnd = false;
  try {
    for (let index = 0; ; ) {
      if (!asked && !isAtEnd && inFlight.length < concurrency) asked = nextOf(source);
      if (!asked && !inFlight.length) return;
      const event = await settle(() => Promise.race(eventsOf(asked, inFlight[0])));
      if ("next" in event) {
        asked = undefined;
        if (event.next.done) isAtEnd = true;
        else inFlight.push(answerTo(event.next.value, work(event.next.value, left.signal)));
        continue;
      }
      inFlight.shift();
      const { answer } = event;
      progress.done++;
      if ("error" in answer) progress.failed++;
      onProgress?.({ ...progress });
      yield { index: index++, ...answer } as BatchResult<T, R>;
    }
  } finally {
    left.abort(); // the results of pictures in flight are no longer needed
    asked?.catch(() => {});
    if (!isAtEnd) void Promise.resolve(source.return?.()).catch(() => {}); // a source that waits may never answer
  }
}

type Event<T, R> = { next: IteratorResult<T> } | { answer: Answer<T, R> };

/** The next input first, so that the worker is kept busy. */
function eventsOf<T, R>(asked?: Promise<IteratorResult<T>>, first?: Promise<Answer<T, R>>): Promise<Event<T, R>>[] {
  const events: Promise<Event<T, R>>[] = [];
  if (asked) events.push(asked.then((next) => ({ next })));
  if (first) events.push(first.then((answer) => ({ answer })));
  return events;
}

async function nextOf<T>(source: Iterator<T> | AsyncIterator<T>): Promise<IteratorResult<T>> {
  return source.next();
}

async function answerTo<T, R>(input: T, work: Promise<R>): Promise<Answer<T, R>> {
  try {
    return { input, result: await work };
  } catch (error) {
    const isOurs = error instanceof SlimViTError;
    return { input, error: isOurs ? error : new SlimViTError("bad-input", messageOf(error), { cause: error }) };
  }
}

function totalOf(inputs: object): { total?: number } {
  const { length, size } = inputs as { length?: unknown; size?: unknown };
  const total = length ?? size;
  return typeof total === "number" ? { total } : {};
}
