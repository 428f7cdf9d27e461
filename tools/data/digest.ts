/** Hashes of data, so that a run can be repeated on the same files. */
import { createHash } from "node:crypto";
import { createReadStream, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { SlimViTError } from "../../src/errors.ts";
import { isLitter } from "./entries.ts";
import { listTree } from "./tree.ts";

export interface DataDigest {
  name: string;
  /** of a zip, the file's; of a folder, that of its list of files in the form of sha256sum */
  sha256: string;
  bytes: number;
  /** the list itself: one line a file, sorted by path */
  files: string[];
}

const digests = new Map<string, Promise<DataDigest>>();

/** Each source is read once a process, because every stage asks for its hash. */
export function digestData(source: string): Promise<DataDigest> {
  const key = resolve(source);
  const known = digests.get(key) ?? digest(source);
  digests.set(key, known);
  return known;
}

async function digest(source: string): Promise<DataDigest> {
  const name = basename(resolve(source));
  const stats = statSync(source, { throwIfNoEntry: false });
  if (!stats) throw new SlimViTError("bad-input", `${source}: no such folder or zip.`);
  if (!stats.isDirectory()) {
    const sha256 = await hashFile(source);
    return { name, sha256, bytes: stats.size, files: [`${sha256}  ${name}`] };
  }
  // Files of the operating system are not part of the data, and they come and go.
  const found = listTree(source).filter(({ path, stats }) => stats?.isFile() && !isLitter(path));
  const files: string[] = [];
  let bytes = 0;
  for (const { path, stats } of found.sort((a, b) => (a.path < b.path ? -1 : 1))) {
    files.push(`${await hashFile(join(source, path))}  ${path}`);
    bytes += stats!.size;
  }
  const sha256 = createHash("sha256").update(files.join("\n")).digest("hex");
  return { name, sha256, bytes, files };
}

async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk);
  return hash.digest("hex");
}
