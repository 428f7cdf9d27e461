/** The files below a folder. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Entry, MAX_PICTURE_BYTES } from "./entries.ts";
import { listTree } from "./tree.ts";

export function listFolder(root: string): Entry[] {
  return listTree(root).map(({ path: onDisk, stats, fault }): Entry => {
    const path = onDisk.normalize("NFC");
    if (fault !== undefined) return { path, fault };
    if (stats?.isDirectory()) return { path };
    return {
      path,
      async read() {
        if (!stats?.isFile()) throw new Error("it is not a file"); // a pipe would be waited for without end
        if (stats.size > MAX_PICTURE_BYTES) throw new Error(`it has ${stats.size} bytes`);
        return readFileSync(join(root, onDisk));
      },
    };
  });
}
