// Finds a Chromium with WebNN for its tests and `slimvit bench --engine webnn`; where there is none, unpacks the one in npm's
// @sparticuz/chromium (Linux on x86-64). Debian's Chromium is built without WebNN's backend.
//   npm run setup            (npm test runs it first)
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { isExecutable } from "./setup-chromium.mjs";

/** Flags for browsers in which WebNN is not on by default. */
export const WEBNN_FLAGS = ["--enable-features=WebMachineLearningNeuralNetwork"];

const VERSION = "147.0.0"; // of test/webnn/package.json
const UNPACKED = join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "slimvit", `chromium-webnn-${VERSION}`);

/** @returns {string | undefined} path of an executable: WEBNN_CHROME_PATH, else the one that setup has unpacked */
export function findWebnnChromium() {
  const wanted = process.env.WEBNN_CHROME_PATH;
  return [wanted ?? join(UNPACKED, "chromium")].find((path) => isExecutable(path));
}

function install() {
  const folder = fileURLToPath(new URL("../test/webnn", import.meta.url));
  const { dependencies } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  if (dependencies["@sparticuz/chromium"] !== VERSION)
    throw new Error(`test/webnn/package.json does not name ${VERSION}`);
  console.error("setup: installing a Chromium with WebNN for the tests …");
  run("npm", ["ci", "--silent", "--no-audit", "--no-fund"], { cwd: folder });
  const part = `${UNPACKED}.part-${process.pid}`; // beside it, so that the rename is atomic
  mkdirSync(part, { recursive: true });
  const unpack = 'import("@sparticuz/chromium").then(({ default: chromium }) => chromium.executablePath())';
  run(process.execPath, ["-e", unpack], { cwd: folder, env: { ...process.env, TMPDIR: part } });
  rmSync(UNPACKED, { recursive: true, force: true });
  renameSync(part, UNPACKED);
}

/** @param {string} command @param {string[]} args @param {object} options */
function run(command, args, options) {
  const { status } = spawnSync(command, args, { stdio: ["ignore", 2, 2], timeout: 900_000, ...options });
  if (status !== 0) throw new Error(`"${command} ${args[0]}" failed`);
}

if (process.argv[1] === fileURLToPath(import.meta.url) && !findWebnnChromium()) {
  let reason = "it does not start";
  try {
    if (process.env.WEBNN_CHROME_PATH) throw new Error(`${process.env.WEBNN_CHROME_PATH} is no executable`);
    install();
  } catch (error) {
    reason = error.message;
  }
  if (!existsSync(findWebnnChromium() ?? "")) {
    console.error(
      `setup: no Chromium with WebNN could be set up (${reason}); its tests will fail. WEBNN_CHROME_PATH names one.`,
    );
  }
}
