// Finds a Firefox and a WebKit for the tests; where there are none, installs Debian's.
//   npm run setup            (npm test runs it first)
import { readdirSync } from "node:fs";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { installDebian } from "./debian.mjs";
import { isExecutable } from "./setup-chromium.mjs";

/** @returns {string | undefined} path of the executable: FIREFOX_PATH, else the first on PATH */
export function findFirefox() {
  return [process.env.FIREFOX_PATH, onPath("firefox-esr"), onPath("firefox")].find(
    (path) => path && isExecutable(path),
  );
}

/** WebKitGTK's driver and small browser, and a display for it where there is none. */
export function findWebKit() {
  const [driver, xvfb] = [onPath("WebKitWebDriver"), onPath("Xvfb")];
  const browser = libraries().flatMap((folder) =>
    ["4.1", "4.0"].map((version) => join(folder, `webkit2gtk-${version}`)),
  );
  const miniBrowser = browser.map((folder) => join(folder, "MiniBrowser")).find(isExecutable);
  return driver && xvfb && miniBrowser ? { driver, xvfb, miniBrowser } : undefined;
}

/** @param {string} name */
function onPath(name) {
  const folders = (process.env.PATH ?? "").split(delimiter);
  return folders.map((folder) => join(folder, name)).find(isExecutable);
}

function libraries() {
  try {
    return ["/usr/lib", "/usr/libexec", ...readdirSync("/usr/lib").map((name) => join("/usr/lib", name))];
  } catch {
    return [];
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const wanted = [...(findFirefox() ? [] : ["firefox-esr"]), ...(findWebKit() ? [] : ["webkit2gtk-driver", "xvfb"])];
  if (wanted.length) installDebian(...wanted);
  if (!findFirefox())
    console.error("setup: no Firefox could be installed; its tests will fail. FIREFOX_PATH names one.");
  if (!findWebKit())
    console.error("setup: no WebKitGTK (WebKitWebDriver, MiniBrowser, Xvfb) could be installed; its tests will fail.");
}
