/**
 * A model out of a set: measures a few members on this device and takes the most accurate one that meets the budget. It is
 * in dist/set.js, which only pages that load a set load.
 */
import { messageOf, SlimViTError, throwIfAborted } from "../errors.ts";
import { MAX_SET_BYTES, readSet, type SetMember, worthHaving } from "../format/set.ts";
import { CACHE, keepChoice, readChoice } from "../loading/cache.ts";
import { digest } from "../loading/digest.ts";
import { download } from "../loading/download.ts";
import { readFromDisk } from "../loading/folders.ts";
import { importNode } from "../loading/importNode.ts";
import { inTurn } from "../loading/inTurn.ts";
import type { LoadOptions, MeasuredMember, ModelSource, SetChoice } from "../protocol.ts";
import { absoluteModelUrl } from "./addresses.ts";
import { choose, type Measured } from "./setChoice.ts";

/** A loaded member, as far as it has to be known to be measured. */
export interface Member {
  info: { macs: number; imageSize: [number, number] };
  classify(
    image: { data: Uint8ClampedArray; width: number; height: number },
    options: { topK: number; signal?: AbortSignal },
  ): Promise<{ latencyMs: { inference: number } }>;
  dispose(): void;
}

/** Loads one member from its folder. */
export type LoadMember<M extends Member> = (folder: string, options: LoadOptions) => Promise<M>;

/** Runs before the clock, for caches and compilers; timed runs, and milliseconds after which no other is begun. */
const WARM_UP = 2;
const RUNS = 7;
const ENOUGH_MS = 1500;

/** Browsers and machines change. */
const KEPT_MS = 30 * 24 * 3600 * 1000;

/** What a device can be too small for; anything else is a fault of the set or the network. */
const TOO_MUCH: readonly string[] = ["out-of-memory", "unsupported", "device-lost"];

/**
 * @param source address of a set.json or its folder, "hf:owner/name" or "hf:owner/name/…set.json"; in Node also a path
 * @throws SlimViTError as `SlimViT.load`
 */
export async function loadFromSet<M extends Member>(
  source: ModelSource,
  options: LoadOptions,
  load: LoadMember<M>,
): Promise<{ model: M; choice: SetChoice }> {
  const { latencyMs, onProgress, signal, ...rest } = options;
  if (latencyMs !== undefined && !(typeof latencyMs === "number" && latencyMs > 0)) {
    const fault = `latencyMs is ${String(latencyMs)}; expected milliseconds above 0.`;
    throw new SlimViTError("bad-option", fault);
  }
  const url = await addressOf(source);
  const text = await readText(url, options);
  const base = new URL(".", url).href;
  const { name, members } = readSet(text, url, base);
  const usable = membersWith(members, options, url);
  const open = async (member: SetMember): Promise<M> => {
    const model = await load(new URL(`${member.folder}/`, base).href, {
      ...rest,
      signal,
      onProgress: onProgress && ((p) => onProgress({ ...p, file: `${member.folder}/${p.file}` })),
    });
    checkMember(model, member, url);
    return model;
  };
  const found =
    latencyMs === undefined
      ? await mostAccurate(usable, open)
      : await inTurn("slimvit-set", () => meetBudget(usable, latencyMs, open, text, options), signal);
  await keepText(url, text, options);
  return { model: found.model, choice: { name, latencyMs, ...found.choice } };
}

async function addressOf(source: ModelSource): Promise<string> {
  const text = String(source);
  if (typeof source !== "string" && !(source instanceof URL))
    throw new SlimViTError("bad-option", "latencyMs needs the address of a model set; it was given files.");
  const [, repository, file] = text.match(/^hf:([\w.-]+\/[\w.-]+)(?:\/([\w./-]*))?$/) ?? [];
  const url = repository
    ? new URL(`https://huggingface.co/${repository}/resolve/main/${file ?? ""}`)
    : await absoluteModelUrl(text);
  if (!/\.json$/.test(url.pathname)) url.pathname = `${url.pathname.replace(/\/$/, "")}/set.json`;
  return url.href;
}

async function readText(url: string, { signal, cache }: LoadOptions): Promise<string> {
  try {
    const bytes = await (url.startsWith("file:")
      ? readDisk(url, signal)
      : download(url, { limit: MAX_SET_BYTES }, signal));
    return new TextDecoder().decode(bytes);
  } catch (error) {
    throwIfAborted(signal);
    if (!(error instanceof SlimViTError) || error.code !== "network") throw error;
    const kept = error.cause && keeps(cache) ? await (await caches.open(CACHE)).match(url).catch(() => {}) : undefined;
    if (!kept) throw error;
    return kept.text(); // from the last visit, as there is no network
  }
}

async function readDisk(url: string, signal?: AbortSignal): Promise<Uint8Array> {
  const { fileURLToPath } = (await importNode("url")) as typeof import("node:url");
  return readFromDisk(fileURLToPath(url), { limit: MAX_SET_BYTES }, signal);
}

const keeps = (cache: LoadOptions["cache"] = true) => cache === true && typeof caches !== "undefined";

/** For a visit without a network. */
async function keepText(url: string, text: string, { cache }: LoadOptions): Promise<void> {
  if (!keeps(cache) || url.startsWith("file:")) return;
  await caches
    .open(CACHE)
    .then((open) => open.put(url, new Response(text)))
    .catch(() => {}); // no quota, perhaps
}

function membersWith(members: SetMember[], { dtype = "auto" }: LoadOptions, name: string): SetMember[] {
  const having = members.filter(({ bytes }) => dtype === "auto" || Object.hasOwn(bytes, dtype));
  if (!having.length) {
    const there = [...new Set(members.flatMap(({ bytes }) => Object.keys(bytes)))].join(", ");
    throw new SlimViTError("bad-option", `${name}: no member has ${String(dtype)} weights; they have ${there}.`);
  }
  return worthHaving(having);
}

/** @throws SlimViTError `bad-model` for a model that is not the one that set.json describes */
function checkMember(model: Member, member: SetMember, name: string): void {
  const { macs } = model.info;
  if (macs === member.macs) return;
  model.dispose();
  const fault = `has ${macs} MACs, the set says ${member.macs}; make the set again with "slimvit set".`;
  throw new SlimViTError("bad-model", `${name}: member "${member.folder}" ${fault}`);
}

type Open<M> = (member: SetMember) => Promise<M>;

interface Found<M> {
  model: M;
  choice: Omit<SetChoice, "name" | "latencyMs">;
}

async function mostAccurate<M>(members: SetMember[], open: Open<M>): Promise<Found<M>> {
  const member = members.at(-1)!;
  const reason = `the most accurate of ${members.length}; no latencyMs was asked for`;
  return {
    model: await open(member),
    choice: { member: member.folder, accuracy: member.accuracy, measured: [], reason },
  };
}

/** One load at a time, so that none disturbs another's measurement. Two models are in memory at most. */
async function meetBudget<M extends Member>(
  members: SetMember[],
  budgetMs: number,
  open: Open<M>,
  text: string,
  options: LoadOptions,
): Promise<Found<M>> {
  const key = keeps(options.cache) ? await keyOf(text, options) : undefined;
  const known = await readKept(key, members.length);
  let held: { index: number; model: M } | undefined;
  const hold = (index: number, model: M) => {
    held?.model.dispose();
    held = { index, model };
  };
  const measure = async (index: number): Promise<Measured> => {
    try {
      const model = await open(members[index]);
      try {
        const ms = await timeOf(model, options.signal);
        if (!held || ms <= budgetMs) hold(index, model);
        else model.dispose();
        return { ms, when: "now" };
      } catch (error) {
        model.dispose();
        throw error;
      }
    } catch (error) {
      const isTooMuch = error instanceof SlimViTError && TOO_MUCH.includes(error.code);
      if (!isTooMuch || !index) throw error; // the cheapest has nothing below it
      return { ms: Number.POSITIVE_INFINITY, when: "now", fault: messageOf(error) };
    }
  };
  try {
    const { index, meets, reason } = await choose(members, budgetMs, measure, known);
    if (held?.index !== index) hold(index, await open(members[index]));
    if (key) await keepChoice(key, JSON.stringify({ at: Date.now(), known })).catch(() => {}); // measured again next time
    const measured = known.flatMap((one, i): MeasuredMember[] => {
      if (!one) return [];
      const { ms, ...rest } = one;
      return [{ member: members[i].folder, ...(Number.isFinite(ms) && { ms }), ...rest }];
    });
    const { folder, accuracy } = members[index];
    return { model: held!.model, choice: { member: folder, accuracy, meets, measured, reason } };
  } catch (error) {
    held?.model.dispose();
    throw error;
  }
}

/** Median milliseconds of inference. */
async function timeOf(model: Member, signal?: AbortSignal): Promise<number> {
  const [height, width] = model.info.imageSize;
  const data = new Uint8ClampedArray(4 * height * width).map((_, i) => (i * 37 + ((i * i) >> 5)) % 256);
  const times: number[] = [];
  const start = performance.now();
  for (let run = 0; run < WARM_UP + RUNS; run++) {
    const { latencyMs } = await model.classify({ data, width, height }, { topK: 1, signal });
    if (run >= WARM_UP) times.push(latencyMs.inference);
    if (times.length && performance.now() - start > ENOUGH_MS) break;
  }
  return times.sort((a, b) => a - b)[times.length >> 1];
}

/** Of a device, a set and what else the times depend on. */
async function keyOf(text: string, { engine, dtype, threads, engineUrls }: LoadOptions): Promise<string> {
  const how = [engine, dtype, threads, engineUrls];
  const { userAgent, hardwareConcurrency, gpu } = globalThis.navigator ?? {};
  const { vendor, architecture, device, description }: Partial<GPUAdapterInfo> =
    (/webgpu/.test(JSON.stringify(how)) && (await gpu?.requestAdapter())?.info) || {};
  const machine = [
    userAgent,
    hardwareConcurrency,
    globalThis.crossOriginIsolated,
    vendor,
    architecture,
    device,
    description,
  ];
  return JSON.stringify(["set", await digest(new TextEncoder().encode(text)), how, machine]);
}

/** @returns what earlier visits measured, a place for each member */
async function readKept(key: string | undefined, count: number): Promise<(Measured | undefined)[]> {
  const none = Array<undefined>(count).fill(undefined);
  try {
    const { at, known } = JSON.parse((key && (await readChoice(key))) || "{}");
    if (!(Date.now() - at < KEPT_MS)) return none;
    return none.map((_, i) => (known[i]?.ms > 0 ? { ms: known[i].ms, when: "earlier" } : undefined));
  } catch {
    return none;
  }
}
