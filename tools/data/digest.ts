/** Hashes of data, so that a run can be repeated on the same files. */
import { createHash } from "node:crypto";
import { createReadStream, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { SlimViTError } from "../../src/errors.ts";
import { isLitter } from "./entries.ts";
import { isTable, tablePictures } from "./table.ts";
import { listTree } from "./tree.ts";

export interface DataDigest {
  name: string;
  /** of a zip, the file's; of a folder or a table, that of its list of files in the form of sha256sum */
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
  if (!stats) throw new SlimViTError("bad-input", `${source}: no such folder, zip, tar or table.`);
  if (!stats.isDirectory() && !isTable(source)) {
    const sha256 = await hashFile(source);
    return { name, sha256, bytes: stats.size, files: [`${sha256}  ${name}`] };
  }
  const files: string[] = [];
  let bytes = 0;
  for (const { path, onDisk } of stats.isDirectory() ? filesIn(source) : tableAndPictures(source)) {
    const stats = statSync(onDisk, { throwIfNoEntry: false });
    if (!stats?.isFile()) continue; // opening the data reports it
    files.push(`${await hashFile(onDisk)}  ${path}`);
    bytes += stats.size;
  }
  const sha256 = createHash("sha256").update(files.join("\n")).digest("hex");
  return { name, sha256, bytes, files };
}

/** The files of a folder but the operating system's, which come and go. Paths are composed: macOS may decompose them. */
const filesIn = (source: string): HashedFile[] =>
  listTree(source)
    .filter(({ path, stats }) => stats?.isFile() && !isLitter(path))
    .map(({ path }) => ({ path: path.normalize("NFC"), onDisk: join(source, path) }))
    .sort(byPath);

const tableAndPictures = (table: string): HashedFile[] => [
  { path: basename(table), onDisk: table },
  ...tablePictures(table).sort(byPath),
];

interface HashedFile {
  path: string;
  onDisk: string;
}

const byPath = (a: HashedFile, b: HashedFile) => (a.path < b.path ? -1 : 1);

async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk);
  return hash.digest("hex");
}
