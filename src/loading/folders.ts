/** Where a model's files are: behind a URL, in a list of files, or on Node's disk. */
import { messageOf, SlimViTError, throwIfAborted } from "../errors.ts";
import type { Source } from "../protocol.ts";
import { Collector, collect, type ReadOptions } from "./collector.ts";
import { download, downloadRange } from "./download.ts";
import { importNode } from "./importNode.ts";

export interface Folder {
  /** Its files are worth caching. */
  isRemote: boolean;
  /** how messages call a file */
  nameOf(file: string): string;
  read(file: string, options: ReadOptions): Promise<Uint8Array>;
  /**
   * A part of a file.
   *
   * @param from its first byte; `options.exactly` is its length
   * @returns undefined where only whole files are served
   */
  readRange(file: string, from: number, options: ReadOptions): Promise<Uint8Array | undefined>;
}

export async function openFolder(source: Source, signal?: AbortSignal): Promise<Folder> {
  if ("files" in source) return folderOfFiles(source.files, signal);
  if ("urls" in source) return folderOfUrls(source.urls, signal);
  return source.url.startsWith("file:") ? folderOnDisk(source.url, signal) : folderOfUrl(source.url, signal);
}

/** Of files that a bundler has renamed. */
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
    readRange: async (file, from, options) =>
      Object.hasOwn(urls, file) ? downloadRange(urls[file], from, options, signal) : undefined,
  };
}

function folderOfUrl(base: string, signal?: AbortSignal): Folder {
  const nameOf = (file: string) => new URL(file, base).href;
  return {
    isRemote: true,
    nameOf,
    read: (file, options) => download(nameOf(file), options, signal),
    readRange: (file, from, options) => downloadRange(nameOf(file), from, options, signal),
  };
}

function folderOfFiles(files: { name: string; blob: Blob }[], signal?: AbortSignal): Folder {
  const names = files.map((file) => file.name).join(", ") || "none";
  const blobOf = (name: string): Blob => {
    const file = files.find((candidate) => candidate.name === name);
    if (file) return file.blob;
    throw new SlimViTError("bad-model", `${name}: is not among the files given (${names}).`);
  };
  return {
    isRemote: false,
    nameOf: (file) => file,
    read: async (name, options) => collect(blobOf(name).stream(), name, options, signal),
    readRange: async (name, from, options) =>
      collect(
        blobOf(name)
          .slice(from, from + options.exactly!)
          .stream(),
        name,
        options,
        signal,
      ),
  };
}

async function folderOnDisk(url: string, signal?: AbortSignal): Promise<Folder> {
  const { fileURLToPath } = (await importNode("node:url")) as typeof import("node:url");
  const nameOf = (file: string) => fileURLToPath(new URL(file, url));
  return {
    isRemote: false,
    nameOf,
    read: (file, options) => readFromDisk(nameOf(file), options, signal),
    readRange: async () => undefined, // a disk reads the whole file sooner than it is opened twice
  };
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
