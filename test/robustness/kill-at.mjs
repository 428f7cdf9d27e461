// Preloaded into a command (node --import). KILL_UNDER names a folder; in the middle of change number KILL_AT to what lies
// in it, the process ends by SIGKILL. Without KILL_AT it prints, as the last line on stderr, how many changes there were.
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { join } from "node:path";

const { KILL_UNDER, KILL_AT } = process.env;
const { writeFileSync, rmSync, writeSync } = fs;
let changes = 0;

/** What is done of each change when the process ends. */
const HALVES = {
  mkdirSync() {},
  renameSync() {},
  linkSync() {},
  utimesSync() {},
  writeFileSync: (path, content) => writeFileSync(path, content.slice(0, content.length / 2)),
  rmSync(path) {
    const [first] = fs.existsSync(path) && fs.statSync(path).isDirectory() ? fs.readdirSync(path) : [];
    if (first) rmSync(join(path, first), { recursive: true });
  },
};

for (const [name, half] of Object.entries(HALVES)) {
  const whole = fs[name];
  fs[name] = (path, ...rest) => {
    if (String(path).startsWith(KILL_UNDER) && ++changes === Number(KILL_AT)) {
      half(path, ...rest);
      process.kill(process.pid, "SIGKILL");
    }
    return whole(path, ...rest);
  };
}
syncBuiltinESMExports();
if (!KILL_AT) process.on("exit", () => void writeSync(2, `${changes}\n`));
