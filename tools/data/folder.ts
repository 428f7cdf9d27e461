/** The files below a folder. */
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { type Entry, MAX_PICTURE_BYTES } from "./entries.ts";
import { listTree } from "./tree.ts";

export function listFolder(root: string): Entry[] {
  return listTree(root).map(({ path: onDisk, stats, fault }): Entry => {
    const path = onDisk.normalize("NFC");
    if (fault !== undefined) return { path, fault };
    if (stats?.isDirectory()) return { path };
    return { path, read: async () => readPicture(join(root, onDisk)) };
  });
}

/** @throws Error for what is no file, or one that is larger than any picture */
export function readPicture(path: string): Buffer {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (!stats) throw new Error("there is no such file");
  if (!stats.isFile()) throw new Error("it is not a file"); // a pipe would be waited for without end
  if (stats.size > MAX_PICTURE_BYTES) throw new Error(`it has ${stats.size} bytes`);
  return readFileSync(path);
}
