/** Output folders and files: checked before the work, written under a temporary name and renamed when complete. */
import { randomBytes } from "node:crypto";
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join, relative, resolve, sep } from "node:path";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { splitSource } from "./sources.ts";

/** Contents by name. */
export type Files = Record<string, string | Uint8Array>;

/** Files that SlimViT's commands write into a folder. */
const OWN_FILES = [
  /^(slimvit|search)\.json$/,
  /^model\.(f32|f16|int8)\.safetensors(\.zz)?$/,
  /^model(_quantized)?\.onnx$/,
  /^(zetas|importance|taught)\.safetensors$/,
  /^(card\.md|report\.html|history\.json|scalars\.csv)$/,
  /^events\.out\.tfevents\./,
  /^\.DS_Store$/,
];

/** Files that people keep beside a model. In a folder without a model they are not SlimViT's to replace. */
const BESIDE_MODEL = [/^recipe\.ya?ml$/, /^(LICENSE|NOTICE|README)(\.\w+)*$/];

/**
 * Asks whether a command may write there, before its work begins.
 *
 * @param force a folder that SlimViT wrote may be replaced
 * @param inputs what the command reads: never replaced, nor a folder that holds one of them
 * @param data the inputs that are pictures: never written into, as the output would be taken for a class
 * @throws SlimViTError `bad-option` for a name that cannot be written, or not without losing something
 */
export function claimOutput(
  out: string,
  force = false,
  inputs: (string | undefined)[] = [],
  data: string[] = [],
): void {
  if (out.trim() === "") throw new SlimViTError("bad-option", "-o is empty; give the name of the output folder.");
  for (const source of data) requireOutsideData(out, source);
  if (!existsSync(out)) {
    requireWritable(out);
    return;
  }
  if (!force)
    throw new SlimViTError("bad-option", `${out}: exists already. Choose another -o, or give --force to replace it.`);
  for (const input of [...inputs, ...data]) if (input !== undefined) requireOutside(input, out);
  const [folder, here] = [realpathSync(out), realpathSync(".")];
  if (here === folder || liesIn(here, folder))
    throw new SlimViTError("bad-option", `${out}: holds the folder that this command runs in. Choose another -o.`);
  requireOwn(out);
  requireWritable(out);
}

/**
 * Asks whether a command may write one file there, before its work begins.
 *
 * @param isOwn whether a file that is there is one that the command wrote, by its text
 * @throws SlimViTError `bad-option` for a name that cannot be written, or not without losing something
 */
export function claimFile(file: string, isOwn: (text: string) => boolean): void {
  const refuse = (why: string) => new SlimViTError("bad-option", `${file}: ${why}. Give the output file another name.`);
  if (!existsSync(file)) requireWritable(file, refuse);
  else if (statSync(file).isDirectory()) throw refuse("is a folder");
  else if (!isOwn(readFileSync(file, "latin1"))) throw refuse("exists already, and this command did not write it");
}

/** @throws SlimViTError `bad-option` for an input that lies in a folder which is to be replaced */
function requireOutside(input: string, out: string): void {
  const { dir } = splitSource(input);
  if (!existsSync(dir)) return; // reading it reports the error
  const [inside, folder] = [realpathSync(dir), realpathSync(out)];
  if (inside !== folder && !liesIn(inside, folder)) return;
  const which = inside === folder ? "is the input itself" : `holds the input ${input}`;
  throw new SlimViTError("bad-option", `${out}: ${which}, so --force does not replace it. Choose another -o.`);
}

/** @throws SlimViTError `bad-option` for an output in a folder of data, of which it would become a part */
function requireOutsideData(out: string, source: string): void {
  if (!existsSync(source)) return; // reading it reports the error
  const parent = nearestFolder(out);
  const [inside, folder] = [realpathSync(parent), realpathSync(source)];
  if (inside !== folder && !liesIn(inside, folder)) return;
  if (resolve(out) === parent && inside === folder) return; // it is the data, which --force does not replace
  throw new SlimViTError("bad-option", `${out}: lies in the data, ${source}. Choose an -o outside of it.`);
}

const liesIn = (path: string, folder: string) => path.startsWith(folder.endsWith(sep) ? folder : folder + sep);

/** The path itself where it exists, else the nearest folder around it that does. */
function nearestFolder(path: string): string {
  let folder = resolve(path);
  while (!existsSync(folder)) folder = dirname(folder);
  return folder;
}

/** @throws SlimViTError `bad-option` for a folder with anything that SlimViT did not write */
export function requireOwn(out: string): void {
  const refuse = (why: string) =>
    new SlimViTError(
      "bad-option",
      `${out}: ${why}. --force replaces only what SlimViT wrote. Choose another -o, or remove it.`,
    );
  if (!statSync(out).isDirectory()) throw refuse("is a file");
  const stranger = strangerIn(out);
  if (stranger !== undefined) throw refuse(`holds ${relative(out, stranger)}, which SlimViT did not write`);
}

/** A file that no command writes, if there is one. `compress --budgets` has its models in folders below. */
function strangerIn(folder: string): string | undefined {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isFile() && isOwn(folder, entry.name)) continue;
    if (!entry.isDirectory() || !isModel(path)) return path;
    const inside = strangerIn(path);
    if (inside !== undefined) return inside;
  }
  return undefined;
}

/** Configurations are an export's only beside its ONNX file: elsewhere they may be a checkpoint's. */
function isOwn(folder: string, name: string): boolean {
  if (/^(preprocessor_)?config\.json$/.test(name)) return isModel(folder) && existsSync(join(folder, "model.onnx"));
  if (BESIDE_MODEL.some((own) => own.test(name))) return isModel(folder);
  return OWN_FILES.some((own) => own.test(name));
}

const isModel = (folder: string) => existsSync(join(folder, "slimvit.json"));

function requireWritable(
  out: string,
  refuse = (why: string) => new SlimViTError("bad-option", `${out}: ${why}. Choose another -o.`),
): void {
  const parent = nearestFolder(dirname(resolve(out)));
  try {
    if (!statSync(parent).isDirectory()) throw new Error(`${parent} is a file`);
    accessSync(parent, constants.W_OK);
  } catch (error) {
    throw refuse(`cannot be written (${messageOf(error)})`);
  }
}

/**
 * Writes all files or none: into a folder beside `out`, which is then renamed. A killed run leaves no half folder
 * under the name `out`. A folder that is replaced stays until the new one is complete.
 *
 * @throws SlimViTError `bad-option` where something would be replaced that SlimViT did not write
 */
export function writeFolder(out: string, files: Files, replace = false): void {
  const beside = join(dirname(resolve(out)), `.${basename(resolve(out))}`);
  const mark = randomBytes(4).toString("hex");
  const [temporary, replaced] = [`${beside}.part-${mark}`, `${beside}.old-${mark}`];
  mkdirSync(temporary, { recursive: true });
  try {
    for (const [name, content] of Object.entries(files)) {
      mkdirSync(dirname(join(temporary, name)), { recursive: true });
      writeFileSync(join(temporary, name), content);
    }
    if (replace && existsSync(out)) {
      requireOwn(out); // the folder may have changed during hours of work
      renameSync(out, replaced);
    }
    renameSync(temporary, resolve(out));
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    throw error;
  }
  rmSync(replaced, { recursive: true, force: true });
}

/** Writes a file so that it is never seen half-written. */
export function writeFileAtomic(path: string, content: string | Uint8Array): void {
  mkdirSync(dirname(path), { recursive: true });
  const temporary = `${path}.part-${randomBytes(4).toString("hex")}`; // of this process: others may write the same file
  try {
    writeFileSync(temporary, content);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}
