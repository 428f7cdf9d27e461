import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";

const MINUTES = 60_000;

/** Installs Debian packages, on a Debian where the user may do so. The caller checks whether it worked. */
export function installDebian(/** @type {string[]} */ ...packages) {
  if (process.getuid?.() !== 0 || !existsSync("/usr/bin/apt-get")) return;
  console.error(`setup: installing Debian's ${packages.join(", ")} …`);
  const options = {
    stdio: ["ignore", "ignore", "inherit"],
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
  };
  spawnSync("apt-get", ["update", "-qq"], { ...options, timeout: 3 * MINUTES });
  spawnSync("apt-get", ["install", "-y", "-qq", "--no-install-recommends", ...packages], {
    ...options,
    timeout: 10 * MINUTES,
  });
}
