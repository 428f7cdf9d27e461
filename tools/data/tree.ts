/** The files below a folder of data, whose contents are not trusted. */
import { readdirSync, realpathSync, type Stats, statSync } from "node:fs";
import { join } from "node:path";

interface Leaf {
  /** from the root, with "/" */
  path: string;
  /** undefined for a link that leads nowhere */
  stats?: Stats;
  /** of a folder that may not be listed: the system's code, such as EACCES */
  fault?: string;
}

/**
 * Links are followed, save those to a folder that they lie in: with two of them, a listing would not end.
 *
 * @param namesIn what lists a folder
 */
export function listTree(
  root: string,
  namesIn: (folder: string) => string[] = (folder) => readdirSync(folder),
): Leaf[] {
  const leaves: Leaf[] = [];
  const visit = (folder: string, names: string[], above: string[]) => {
    for (const name of names) {
      const path = folder ? `${folder}/${name}` : name;
      const stats = statOf(join(root, path));
      const real = stats?.isDirectory() ? realpathSync(join(root, path)) : undefined;
      if (real === undefined) leaves.push({ path, stats });
      else if (!above.includes(real)) {
        const { names, fault } = tryList(() => namesIn(join(root, path)));
        leaves.push({ path, stats, ...(fault !== undefined && { fault }) });
        visit(path, names, [...above, real]);
      }
    }
  };
  visit("", namesIn(root), [realpathSync(root)]);
  return leaves;
}

/** Lists a folder. One that belongs to another user, such as lost+found on a drive, must not stop the reading. */
function tryList(list: () => string[]): { names: string[]; fault?: string } {
  try {
    return { names: list() };
  } catch (error) {
    return { names: [], fault: (error as NodeJS.ErrnoException).code ?? String(error) };
  }
}

function statOf(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}
