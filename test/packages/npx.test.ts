/** The packed tools as npm itself installs them into an empty folder, and `npx slimvit` there. No install script is run. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { readModelFolder, writeModelFolder } from "../../tools/models/folders.ts";
import { randomModel } from "../helpers.ts";
import { tinyArchitecture, workplace } from "../tools/fixtures.ts";
import { type PackageName, pack, ROOT } from "./packed.ts";

const at = workplace("npx");
const NAMES: PackageName[] = ["slimvit", "slimvit-tools"];

interface LockedPackage {
  link?: boolean;
  dev?: boolean;
  devOptional?: boolean;
}

/** The project's own lock file for an app that has nothing but these: npm takes their dependencies from its cache where it can. */
function lockFor(dependencies: Record<string, string>): object {
  const { packages } = JSON.parse(readFileSync(join(ROOT, "package-lock.json"), "utf8")) as {
    packages: Record<string, LockedPackage>;
  };
  const others = Object.entries(packages).flatMap(([path, locked]) => {
    if (!/^(tools\/)?node_modules\//.test(path) || locked.link) return [];
    const { dev: _, devOptional: __, ...entry } = locked;
    return [[path.replace(/^tools\//, "node_modules/slimvit-tools/"), entry]];
  });
  const ours = Object.entries(dependencies).map(([name, resolved]) => {
    const home = name === "slimvit" ? "." : "tools";
    const { version, dependencies, peerDependencies, peerDependenciesMeta, bin } = JSON.parse(
      readFileSync(join(ROOT, home, "package.json"), "utf8"),
    );
    return [`node_modules/${name}`, { version, resolved, dependencies, peerDependencies, peerDependenciesMeta, bin }];
  });
  return {
    name: "app",
    lockfileVersion: 3,
    requires: true,
    packages: { "": { name: "app", dependencies }, ...Object.fromEntries([...ours, ...others]) },
  };
}

beforeAll(() => {
  mkdirSync(at("app"));
  const dependencies = Object.fromEntries(NAMES.map((name) => [name, `file:../${basename(pack(name, at()))}`]));
  writeFileSync(at("app", "package.json"), JSON.stringify({ name: "app", private: true, dependencies }));
  writeFileSync(at("app", "package-lock.json"), JSON.stringify(lockFor(dependencies)));
  const options = ["--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"];
  execFileSync("npm", ["install", ...options], { cwd: at("app"), stdio: "pipe" });
  const { manifest, tensors } = randomModel(tinyArchitecture(), 3);
  writeModelFolder(at("app", "tiny"), manifest, tensors, ["f32"]);
});

/** A command that npm has not linked fails here, and is not asked for at the registry. */
const slimvit = (...args: string[]) =>
  execFileSync("npx", ["slimvit", ...args], {
    cwd: at("app"),
    encoding: "utf8",
    stdio: "pipe",
    env: { ...process.env, npm_config_offline: "true" },
  });

test("npm brings what the packages name, and nothing of what they are built with", () => {
  const places = [at("app", "node_modules"), at("app", "node_modules/slimvit-tools/node_modules")];
  const isThere = (name: string) => places.some((place) => existsSync(join(place, name)));
  const { dependencies } = JSON.parse(readFileSync(join(ROOT, "tools/package.json"), "utf8"));
  expect(Object.keys(dependencies).filter((name) => !isThere(name))).toEqual([]);
  expect(["vitest", "typescript", "@biomejs/biome", "tsx"].filter(isThere)).toEqual([]);
});

test("npx slimvit --help lists the commands", () => {
  expect(slimvit("--help")).toMatch(/import[\s\S]*search[\s\S]*compress[\s\S]*retrain[\s\S]*export/);
});

test("a model is inspected, merged and inspected again without TensorFlow", () => {
  expect(existsSync(at("app", "node_modules/@tensorflow/tfjs-node/lib"))).toBe(false);
  slimvit("merge", "tiny", "--merge", "0:3", "-o", "merged");
  const [tiny, merged] = ["tiny", "merged"].map((folder) => JSON.parse(slimvit("inspect", folder, "--json")));
  expect(tiny).toMatchObject({ numClasses: 5, embedDim: 16 });
  expect(merged.macs).toBeLessThan(tiny.macs);
  expect(merged.params).toBe(tiny.params);
  expect(readModelFolder(at("app", "merged")).manifest.blocks.map(({ merge }) => merge)).toEqual([3, 0, 0]);
});
