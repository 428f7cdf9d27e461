/**
 * The meaning of folders: classes, splits, or folders around the data. From the root, folders that contain only one
 * other folder are skipped. Then come split folders ("train", "Validation"), if there are any, and then class folders.
 * Everything below a class folder is of that class, at any depth.
 */
import { SlimViTError } from "../../src/errors.ts";
import { type Entry, extensionOf, isLitter, isOtherPicture, isPicture, type Listing, nameOf } from "./entries.ts";
import { type SplitPart, splitNamed } from "./splits.ts";
import { isMetadata } from "./table.ts";

export interface SourceFile {
  path: string;
  /** "" where it has none */
  className: string;
  split?: SplitPart;
  read: () => Promise<Buffer>;
}

export interface Layout {
  files: SourceFile[];
  /** what was left out and why, each a clause for people */
  leftOut: string[];
  /** how folders were understood, where that may surprise */
  notes: string[];
}

interface Folder {
  path: string;
  folders: Map<string, Folder>;
  /** directly in it */
  pictures: Entry[];
  /** directly in it, of kinds that are not read */
  others: Entry[];
}

/**
 * @param unlabelled classes are not asked for: every picture counts
 * @throws SlimViTError `bad-input` naming a class folder that has no picture
 */
export function layOut(source: string, { entries, annotations, annotatedBy }: Listing, unlabelled: boolean): Layout {
  const leftOut = leftOutOf(entries, annotations);
  const data = entries.filter(({ path, fault }) => fault === undefined && !isLitter(path));
  if (annotations) {
    // A picture that the annotations name belongs to the data, whatever the folders that it lies in are called.
    const files = entries.filter(({ path, read }) => read !== undefined && annotations.has(path));
    const unnamed = data.filter(({ path, read }) => read !== undefined && isPicture(path) && !annotations.has(path));
    const paths = new Set(files.map(({ path }) => path));
    const absent = [...annotations.keys()].filter((path) => !paths.has(path));
    if (absent.length) leftOut.push(`${absent.length} that ${annotatedBy} names and that are not there (${absent[0]})`);
    if (unnamed.length && !unlabelled)
      leftOut.push(`${unnamed.length} that ${annotatedBy} does not name (${unnamed[0].path})`);
    const annotated = [...files, ...(unlabelled ? unnamed : [])].map(({ path, read }): SourceFile => {
      const { className = "", split } = annotations.get(path) ?? {};
      return { path, className, read: read!, ...(split && { split }) };
    });
    const notes = [`the classes come from ${annotatedBy}`];
    return withClasses(splitByFolders(annotated, notes), leftOut, notes, unlabelled);
  }
  const top = passWrappers(treeOf(data));
  const splits = splitFolders(top);
  const files: SourceFile[] = [];
  const notes: string[] = [];
  if (splits.size) {
    for (const [name, folder] of top.folders) {
      const split = splits.get(name);
      if (split) files.push(...filesBelow(source, folder, notes, unlabelled, split));
      else if (allIn(folder).length)
        leftOut.push(`${allIn(folder).length} in ${folder.path}/, beside the split folders`);
    }
  } else {
    files.push(...filesBelow(source, top, notes, unlabelled));
  }
  for (const { path, read } of splits.size ? top.pictures : []) files.push({ path, className: "", read: read! });
  return withClasses(files, leftOut, notes, unlabelled);
}

/**
 * Annotated pictures in folders of several splits and no others belong to these, as in Hugging Face's imagefolder with
 * its metadata in train/ and test/.
 */
function splitByFolders(files: SourceFile[], notes: string[]): SourceFile[] {
  if (files.some(({ split }) => split)) return files;
  const folders = files.map(({ path }) => path.split("/").slice(0, -1));
  let depth = 0;
  while (folders.length > 0 && folders.every((parts) => depth < parts.length && parts[depth] === folders[0][depth]))
    depth++;
  const names = new Set(folders.map((parts) => parts[depth]).filter((name) => name !== undefined));
  if (new Set([...names].map(splitNamed)).size < 2 || ![...names].every(splitNamed)) return files;
  notes.push(`the splits are its folders ${[...names].sort().join(", ")}`);
  return files.map((file, k) => ({ ...file, split: splitNamed(folders[k][depth] ?? "") }));
}

function withClasses(files: SourceFile[], leftOut: string[], notes: string[], unlabelled: boolean): Layout {
  const classless = files.filter(({ className }) => className === "").length;
  if (unlabelled || !classless) return { files, leftOut, notes };
  const why = `${classless} without a class`;
  return { files: files.filter(({ className }) => className !== ""), leftOut: [...leftOut, why], notes };
}

function treeOf(entries: Entry[]): Folder {
  const root: Folder = { path: "", folders: new Map(), pictures: [], others: [] };
  const folderAt = (path: string): Folder => {
    let folder = root;
    for (const part of path.split("/").filter(Boolean)) {
      const below = folder.path ? `${folder.path}/${part}` : part;
      if (!folder.folders.has(part))
        folder.folders.set(part, { path: below, folders: new Map(), pictures: [], others: [] });
      folder = folder.folders.get(part)!;
    }
    return folder;
  };
  for (const entry of entries) {
    const { path, read } = entry;
    const name = nameOf(path);
    const folder = folderAt(read ? path.slice(0, path.length - name.length) : path);
    if (read) (isPicture(path) ? folder.pictures : folder.others).push(entry);
  }
  return root;
}

/** Pictures anywhere below. */
const allIn = ({ pictures, folders }: Folder): Entry[] => [...pictures, ...[...folders.values()].flatMap(allIn)];

const holding = ({ folders }: Folder) => [...folders.values()].filter((folder) => allIn(folder).length > 0);

/**
 * Passes over wrapping folders, such as a zip's top folder: a folder without pictures, in which a single folder has
 * pictures in its subfolders.
 */
function passWrappers(root: Folder): Folder {
  const [only, ...others] = holding(root);
  const isWrapper = only && !others.length && !root.pictures.length && !only.pictures.length;
  return isWrapper && !splitNamed(nameOf(only.path)) ? passWrappers(only) : root;
}

/**
 * The split folders by name. None where a folder with a split's name is a class: it has pictures itself, and no other
 * folder has subfolders.
 */
function splitFolders({ folders }: Folder): Map<string, SplitPart> {
  const named = new Map<string, SplitPart>();
  for (const [name, folder] of folders) {
    const split = splitNamed(name);
    if (split && allIn(folder).length) named.set(name, split);
  }
  const isSplit = [...named.keys()].some((name) => holding(folders.get(name)!).length > 0);
  return isSplit ? named : new Map();
}

/** The pictures of the class folders in `top`, and those without one. */
function filesBelow(
  source: string,
  top: Folder,
  notes: string[],
  unlabelled: boolean,
  split?: SplitPart,
): SourceFile[] {
  const files: SourceFile[] = top.pictures.map(({ path, read }) => ({
    ...{ path, className: "", read: read! },
    ...(split && { split }),
  }));
  for (const [className, folder] of top.folders) {
    const pictures = allIn(folder);
    if (!pictures.length && !unlabelled) refuseEmpty(source, folder, top);
    const below = holding(folder).map(({ path }) => nameOf(path));
    const own = split ? [] : below.filter((name) => splitNamed(name));
    const areSplits = own.length > 0 && own.length === below.length && !folder.pictures.length;
    if (below.length && !areSplits)
      notes.push(`${folder.path}/ has subfolders (${shortList(below)}); their pictures are of class "${className}"`);
    for (const { path, read } of pictures) {
      const part = areSplits ? splitNamed(path.slice(folder.path.length + 1).split("/")[0]) : split;
      files.push({ path, className, read: read!, ...(part && { split: part }) });
    }
  }
  return files;
}

/** Refuses an empty class folder, because the class would silently be missing from the data. */
function refuseEmpty(source: string, folder: Folder, top: Folder): void {
  if (!holding(top).length) return; // No class folder holds a picture. The caller reports it, with the expected form.
  const inside = [...folder.others, ...[...folder.folders.values()].flatMap(({ others }) => others)];
  const kinds = inside.length ? ` that can be read (it holds ${countKinds(inside)})` : "";
  throw new SlimViTError(
    "bad-input",
    `${source}: class folder "${folder.path}" holds no picture${kinds}. Fill it or remove it.`,
  );
}

const shortList = (names: string[]) => (names.length > 3 ? `${names.slice(0, 3).join(", ")}, …` : names.join(", "));

function leftOutOf(entries: Entry[], annotations: Listing["annotations"]): string[] {
  const leftOut: string[] = [];
  const files = entries.filter(({ read }) => read);
  const isData = (path: string) => !isLitter(path) || annotations?.has(path);
  const litter = files.filter(({ path }) => !isData(path) && (isPicture(path) || isOtherPicture(path)));
  const others = files.filter(({ path }) => !isLitter(path) && !isPicture(path) && !isMetadata(path));
  // Beside a sample's picture lie its label and captions; only pictures of other kinds are worth a word.
  const unread = annotations ? others.filter(({ path }) => isOtherPicture(path)) : others;
  if (litter.length) leftOut.push(`${litter.length} hidden or system files (${nameOf(litter[0].path)})`);
  if (unread.length) leftOut.push(`files of unsupported kinds: ${countKinds(unread)}`);
  const closed = entries.filter(({ fault }) => fault !== undefined);
  for (const { path, fault } of closed) leftOut.push(`the folder ${path}/, which cannot be listed (${fault})`);
  return leftOut;
}

/** "3 .heic, 1 .txt" */
function countKinds(files: Entry[]): string {
  const counts = new Map<string, number>();
  for (const { path } of files) {
    const kind = extensionOf(path) || "without an extension";
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  return [...counts]
    .sort(([, a], [, b]) => b - a)
    .map(([kind, count]) => `${count} ${kind}`)
    .join(", ");
}
