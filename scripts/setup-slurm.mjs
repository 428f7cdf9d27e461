// A SLURM for the test of `slimvit sweep --on slurm`, which starts it itself; where there is none, installs Debian's.
//   npm run setup            (npm test runs it first)
import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { installDebian } from "./debian.mjs";

const COMMANDS = ["slurmctld", "slurmd", "sbatch", "munged"];

function isThere() {
  const folders = [...(process.env.PATH ?? "").split(delimiter), "/usr/sbin", "/usr/local/sbin"];
  return COMMANDS.every((name) => folders.some((folder) => existsSync(join(folder, name))));
}

if (!isThere()) installDebian("slurmctld", "slurmd", "slurm-client", "munge");
if (!isThere()) {
  // Setup goes on: everything else works without SLURM, and its one test says what is missing.
  console.error("setup: no SLURM was found and none could be installed; test/tools/slurm.test.ts will fail.");
}
