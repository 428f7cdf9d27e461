/** Relative addresses, paths and names of models → absolute URLs. */
import { SlimViTError, type SlimViTErrorCode } from "../errors.ts";
import { importNode } from "../loading/importNode.ts";
import type { ModelPackage, ModelSource, Source } from "../protocol.ts";
import { advise } from "./advise.ts";

/** @throws SlimViTError `bad-option` for a value that is not a source of a model */
export async function resolveSource(source: ModelSource, npmUrl?: string): Promise<Source> {
  if (isPackage(source)) return ofPackage(source);
  if (typeof source === "object" && source && Symbol.iterator in source) return { files: namedFiles(source) };
  const text = String(source);
  if (typeof source !== "string" && !(source instanceof URL)) {
    const expected = await advise(({ modelSources }) => modelSources(), "its folder's URL");
    throw new SlimViTError("bad-option", `The model's source is ${text}; expected ${expected}.`);
  }
  const hub = text.match(/^hf:([\w.-]+\/[\w.-]+)$/);
  if (hub) return { url: `https://huggingface.co/${hub[1]}/resolve/main/` };
  if (text.startsWith("npm:")) return { url: npmFolder(text, npmUrl) };
  if (text.startsWith("hf:"))
    throw new SlimViTError("bad-option", `"${text}" is no Hugging Face name; expected "hf:owner/name".`);
  return { url: asFolder((await absoluteModelUrl(text)).href) };
}

const NPM_URL = "https://cdn.jsdelivr.net/npm/";

function npmFolder(text: string, npmUrl = NPM_URL): string {
  const [, name] = text.match(/^npm:((?:@[a-z\d][\w.-]*\/)?[a-z\d][\w.-]*@\d[\w.+-]*)$/) ?? [];
  if (name) return absoluteUrl(`${npmUrl.replace(/\/$/, "")}/${name}/`, "bad-option");
  throw new SlimViTError("bad-option", `"${text}" names no version of a package; expected "npm:name@1.2.3".`);
}

function isPackage(source: unknown): source is ModelPackage {
  const { files, name } = (source ?? {}) as ModelPackage;
  return (
    typeof name === "string" && typeof files === "object" && files !== null && !(Symbol.iterator in (source as object))
  );
}

/** A model's package as a folder where its files kept their names side by side, as in Node and without a bundler. */
function ofPackage({ files }: ModelPackage): Source {
  const urls = Object.fromEntries(Object.entries(files).map(([name, url]) => [name, absoluteUrl(url, "bad-option")]));
  const folders = new Set(
    Object.entries(urls).map(([name, url]) => (url.endsWith(`/${name}`) ? url.slice(0, -name.length) : "")),
  );
  const [folder] = folders;
  return folders.size === 1 && folder ? { url: folder } : { urls };
}

function namedFiles(files: Iterable<File>): { name: string; blob: Blob }[] {
  return Array.from(files, (file) => {
    if (file instanceof Blob && typeof file.name === "string") return { name: file.name, blob: file };
    throw new SlimViTError("bad-option", `The model's source lists ${String(file)}; expected File objects alone.`);
  });
}

/** @throws SlimViTError `bad-option` */
export async function absoluteModelUrl(text: string): Promise<URL> {
  try {
    if (/^[a-z][a-z\d+.-]+:/i.test(text)) return new URL(text);
    if (typeof location !== "undefined") return new URL(text, pageUrl());
    const { pathToFileURL } = (await importNode("node:url")) as typeof import("node:url");
    return pathToFileURL(text);
  } catch {
    throw new SlimViTError("bad-option", `"${text}" is no address of a model folder.`);
  }
}

/** The folder's address, also when the address of its manifest was given. */
function asFolder(href: string): string {
  const folder = href.replace(/[?#].*$/, "").replace(/slimvit\.json$/, "");
  return folder.endsWith("/") ? folder : `${folder}/`;
}

/** The address to which relative ones are resolved. A worker of the app may itself come from a blob. */
function pageUrl(): string {
  return globalThis.document?.baseURI ?? location.href;
}

/** @throws SlimViTError `code` for an invalid address. Node has no page and returns addresses as they are */
export function absoluteUrl(url: string | URL, code: SlimViTErrorCode): string {
  if (typeof location === "undefined") return String(url);
  try {
    return new URL(url, pageUrl()).href;
  } catch (error) {
    throw new SlimViTError(code, `"${url}" is no address.`, { cause: error });
  }
}
