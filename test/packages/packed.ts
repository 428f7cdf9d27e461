/** The packages as npm would publish them, installed into a folder of their own. */
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const HOMES = { slimvit: ROOT, "slimvit-tools": join(ROOT, "tools") };

export type PackageName = keyof typeof HOMES;

/** @returns path of the tarball */
export function pack(name: PackageName, folder: string): string {
  return packFolder(HOMES[name], folder);
}

function packFolder(home: string, folder: string): string {
  const args = ["pack", "--ignore-scripts", "--silent", "--pack-destination", folder];
  const file = execFileSync("npm", args, { cwd: home, encoding: "utf8" });
  return join(folder, file.trim());
}

/** Into `folder`/node_modules, with its commands. Only what it says it depends on is there beside it. */
export function installPacked(folder: string, ...names: PackageName[]): void {
  const modules = join(folder, "node_modules");
  mkdirSync(join(modules, ".bin"), { recursive: true });
  for (const name of names) {
    const unpacked = mkdtempSync(join(folder, "unpacked-"));
    execFileSync("tar", ["xzf", pack(name, folder), "-C", unpacked]);
    cpSync(join(unpacked, "package"), join(modules, name), { recursive: true });
    rmSync(unpacked, { recursive: true });
    const { dependencies, bin = {} } = JSON.parse(readFileSync(join(modules, name, "package.json"), "utf8")) as {
      dependencies: Record<string, string>;
      bin?: Record<string, string>;
    };
    for (const [command, path] of Object.entries(bin))
      symlinkSync(join("..", name, path), join(modules, ".bin", command));
    for (const dependency of Object.keys(dependencies).filter((dependency) => !(dependency in HOMES)))
      link(modules, dependency, HOMES[name]);
  }
}

/** Puts a package beside the installed ones: the one that `home` uses here. */
export function link(modules: string, name: string, home = ROOT): void {
  const target = join(modules, name);
  const source = [home, ROOT].map((root) => join(root, "node_modules", name)).find((path) => existsSync(path));
  if (!source) throw new Error(`${name} is not installed here`);
  mkdirSync(dirname(target), { recursive: true });
  rmSync(target, { force: true });
  symlinkSync(source, target);
}

/** A shipped model's package as npm would publish it, e.g. as node_modules/slimvit-NAME. */
export function unpackModel(model: string, target: string): void {
  mkdirSync(target, { recursive: true });
  const tarball = packModel(model, target);
  execFileSync("tar", ["xzf", tarball, "--strip-components=1"], { cwd: target });
  rmSync(tarball);
}

/** @returns path of the tarball */
export function packModel(model: string, folder: string): string {
  return packFolder(join(ROOT, "models", model), folder);
}
