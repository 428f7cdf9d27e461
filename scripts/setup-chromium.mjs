// Finds a Chromium for the browser tests and `slimvit bench`; where there is none, installs Debian's.
//   npm run setup            (npm test runs it first)
import { accessSync, constants, existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { installDebian } from "./debian.mjs";

const NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];
const APPS = [
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
  "/Applications/Chromium.app/Contents/MacOS/Chromium",
];

/** @returns {string | undefined} path of an executable: CHROME_PATH, else the first of the usual names on PATH */
export function findChromium() {
  const wanted = process.env.CHROME_PATH;
  if (wanted) return isExecutable(wanted) ? wanted : undefined;
  const folders = (process.env.PATH ?? "").split(delimiter);
  return [...NAMES.flatMap((name) => folders.map((folder) => join(folder, name))), ...APPS].find(isExecutable);
}

/** @param {string} path */
export function isExecutable(path) {
  if (!existsSync(path)) return false;
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (!findChromium()) installDebian("chromium");
  if (!findChromium()) {
    console.error(
      "setup: no Chromium was found and none could be installed. Install one, or set CHROME_PATH to its executable.",
    );
    process.exit(1);
  }
}
