/** Where a model's files are: behind a URL, in a list of files, or on Node's disk. */
import { messageOf, SlimViTError, throwIfAborted } from "../errors.ts";
import type { Source } from "../protocol.ts";
import { Collector, collect, type ReadOptions } from "./collector.ts";
import { download } from "./download.ts";
import { importNode } from "./importNode.ts";

export interface Folder {
  /** Whether the files come from a server, so that caching them pays. */
  isRemote: boolean;
  /** how messages call a file */
  nameOf(file: string): string;
  read(file: string, options: ReadOptions): Promise<Uint8Array>;
}

export async function openFolder(source: Source, signal?: AbortSignal): Promise<Folder> {
  if ("files" in source) return folderOfFiles(source.files, signal);
  if ("urls" in source) return folderOfUrls(source.urls, signal);
  return source.url.startsWith("file:") ? folderOnDisk(source.url, signal) : folderOfUrl(source.url, signal);
}

/** A folder whose files a bundler has renamed. */
function folderOfUrls(urls: Record<string, string>, signal?: AbortSignal): Folder {
  const nameOf = (file: string) => urls[file] ?? file;
  return {
    isRemote: true,
    nameOf,
    async read(file, options) {
      if (Object.hasOwn(urls, file)) return download(urls[file], options, signal);
      throw new SlimViTError(
        "bad-model",
        `${file}: is not among the package's files (${Object.keys(urls).join(", ")}).`,
      );
    },
  };
}

function folderOfUrl(base: string, signal?: AbortSignal): Folder {
  const nameOf = (file: string) => new URL(file, base).href;
  return { isRemote: true, nameOf, read: (file, options) => download(nameOf(file), options, signal) };
}

function folderOfFiles(files: { name: string; blob: Blob }[], signal?: AbortSignal): Folder {
  const names = files.map((file) => file.name).join(", ") || "none";
  return {
    isRemote: false,
    nameOf: (file) => file,
    async read(name, options) {
      const file = files.find((candidate) => candidate.name === name);
      if (!file) throw new SlimViTError("bad-model", `${name}: is not among the files given (${names}).`);
      return collect(file.blob.stream(), name, options, signal);
    },
  };
}

async function folderOnDisk(url: string, signal?: AbortSignal): Promise<Folder> {
  const { fileURLToPath } = (await importNode("node:url").catch((cause) => {
    const advice = "Serve the folder over http, or load the files that a user picks in an <input>.";
    throw new SlimViTError("unsupported", `${url}: a page cannot read the disk. ${advice}`, { cause });
  })) as typeof import("node:url");
  const nameOf = (file: string) => fileURLToPath(new URL(file, url));
  return { isRemote: false, nameOf, read: (file, options) => readFromDisk(nameOf(file), options, signal) };
}

/** @throws SlimViTError `bad-model` for a file that is missing or too long, `integrity` for one that is too short */
export async function readFromDisk(path: string, options: ReadOptions, signal?: AbortSignal): Promise<Uint8Array> {
  const { readFile } = (await importNode("node:fs/promises")) as typeof import("node:fs/promises");
  const collector = new Collector(path, options);
  try {
    collector.add(await readFile(path, { signal }));
  } catch (error) {
    throwIfAborted(signal);
    if (error instanceof SlimViTError) throw error;
    throw new SlimViTError("bad-model", `${path}: cannot be read (${messageOf(error)}).`, { cause: error });
  }
  return collector.finish("integrity");
}
