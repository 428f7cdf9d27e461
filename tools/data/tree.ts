/** What lies below a folder of data, which anyone may have made. */
import { readdirSync, realpathSync, type Stats, statSync } from "node:fs";
import { join } from "node:path";

interface Leaf {
  /** from the root, with "/" */
  path: string;
  /** undefined for a link that leads nowhere */
  stats?: Stats;
}

/** Links are followed, save those to a folder that they lie in: with two of them, a listing would not end. */
export function listTree(root: string): Leaf[] {
  const leaves: Leaf[] = [];
  const visit = (folder: string, above: string[]) => {
    for (const name of readdirSync(join(root, folder))) {
      const path = folder ? `${folder}/${name}` : name;
      const stats = statOf(join(root, path));
      const real = stats?.isDirectory() ? realpathSync(join(root, path)) : undefined;
      if (real && above.includes(real)) continue;
      leaves.push({ path, stats });
      if (real) visit(path, [...above, real]);
    }
  };
  visit("", [realpathSync(root)]);
  return leaves;
}

function statOf(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}
