/** The blocks of the guides that need no browser, run as they are written but for the picture's name. */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

test("the code of docs/guides/node.md prints a class with its score", () => {
  const page = readFileSync(`${ROOT}docs/guides/node.md`, "utf8");
  const [, code] = page.match(/```js\n([^`]+)```/)!;
  const script = code.replace("photo.jpg", "demo/samples/umbrella.jpg");
  expect(script).not.toBe(code);
  const args = ["--input-type=module", "--eval", script];
  const printed = execFileSync(process.execPath, args, { cwd: ROOT, encoding: "utf8", timeout: 120_000 });
  expect(printed).toMatch(/label: 'umbrella'[\s\S]*score: 0\.\d+/);
});
