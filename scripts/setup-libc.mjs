// jazzer.js comes compiled against glibc 2.38. On a Debian with an older one, a newer one from Debian 13 is unpacked beside
// the fuzzer, for its process alone; nothing is installed.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const SUITE = "trixie";
const LIBRARIES = "/usr/lib/x86_64-linux-gnu";

/**
 * The command that starts Node so that `addon` loads: Node's path alone, where the system's glibc is new enough.
 * @param {string} addon @param {string} folder for what has to be fetched @returns {string[]} @throws where neither works
 */
export function nodeFor(addon, folder) {
  const loads = (/** @type {string[]} */ [command, ...args]) =>
    spawnSync(command, [...args, "-e", `require(${JSON.stringify(addon)})`], { encoding: "utf8" });
  const plain = [process.execPath];
  const { status, stderr } = loads(plain);
  if (status === 0) return plain;
  const root = join(folder, "root");
  const libraries = join(root, LIBRARIES);
  const loader = join(libraries, "ld-linux-x86-64.so.2");
  if (stderr.includes("GLIBC_") && !existsSync(loader)) unpack(folder, root);
  const withLibc = [loader, "--library-path", `${libraries}:${LIBRARIES}`, process.execPath];
  if (existsSync(loader) && loads(withLibc).status === 0) return withLibc;
  throw new Error(`The fuzzer does not load here (${stderr.match(/^Error: .*/m)?.[0] ?? stderr.slice(-300)}).`);
}

/** libc6 and libstdc++6 from this machine's own Debian mirror, with lists and caches of their own. */
function unpack(/** @type {string} */ folder, /** @type {string} */ root) {
  const mirror = debianMirror();
  if (!mirror || process.arch !== "x64") return;
  console.error(`setup: fetching glibc of Debian ${SUITE} for the fuzzer …`);
  for (const part of ["state/lists/partial", "cache/archives/partial", "root"])
    mkdirSync(join(folder, part), { recursive: true });
  writeFileSync(join(folder, "sources.list"), `deb ${mirror} ${SUITE} main\n`);
  const options = [
    `Dir::Etc::sourcelist=${join(folder, "sources.list")}`,
    "Dir::Etc::sourceparts=-",
    `Dir::State=${join(folder, "state")}`,
    `Dir::Cache=${join(folder, "cache")}`,
  ].flatMap((option) => ["-o", option]);
  const how = { cwd: folder, stdio: /** @type {const} */ (["ignore", "ignore", "inherit"]), timeout: 300_000 };
  spawnSync("apt-get", ["-qq", ...options, "update"], how);
  spawnSync("apt-get", ["-qq", ...options, "download", "libc6", "libstdc++6", "libgcc-s1"], how);
  for (const file of readdirSync(folder).filter((name) => name.endsWith(".deb")))
    spawnSync("dpkg-deb", ["-x", file, root], how);
}

/** @returns {string | undefined} address of the mirror that this system installs from */
function debianMirror() {
  const folder = "/etc/apt/sources.list.d";
  const lists = existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : [];
  const files = ["/etc/apt/sources.list", ...lists].filter(
    (path) => /\.(list|sources)$/.test(path) && existsSync(path),
  );
  return files.flatMap((path) => readFileSync(path, "utf8").match(/https?:\/\/\S*\/debian\/?(?=\s)/g) ?? [])[0];
}
