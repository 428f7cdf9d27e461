/** What "npm start" runs once the package is built, as a process of its own, with its options. */
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { ROOT } from "../packages/packed.ts";
import { expectBoth, expectVerdict, openDemo } from "./demo.ts";

// Not "npm start" itself: its build would take dist/ from under the tests beside this one.
const { scripts } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { scripts: { start: string } };
const [, command] = scripts.start.match(/^npm run --silent build && (node [\w./]+)$/)!;

function start(port: string, ...options: string[]): ChildProcess {
  const [, ...args] = [...command.split(" "), "--no-open", ...options];
  return spawn(process.execPath, args, { cwd: ROOT, env: { ...process.env, PORT: port } });
}

/** @returns the address that it prints */
function addressOf(server: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    server.stdout!.on("data", (data) => {
      text += data;
      const url = text.match(/http:\/\/localhost:\d+\//)?.[0];
      if (url) resolve(url);
    });
    server.on("exit", () => reject(new Error(`It ended: ${text}`)));
  });
}

test.each([
  ["npm start", [], true],
  ["npm start -- --no-isolation", ["--no-isolation"], false],
] as const)("%s serves a page that classifies", async (_, options, isolated) => {
  const server = start("0", ...options);
  try {
    const demo = await openDemo({ url: await addressOf(server) });
    try {
      await expectBoth(demo.page);
      await expectVerdict(demo.page, /giant panda/);
      expect(await demo.page.evaluate(() => crossOriginIsolated)).toBe(isolated);
      expect(demo.complaints).toEqual([]);
    } finally {
      await demo.close();
    }
  } finally {
    server.kill();
  }
});

test("a port that is taken and an option that is none are said in a sentence, with exit codes 1 and 2", async () => {
  const first = start("0");
  try {
    const { port } = new URL(await addressOf(first));
    expect(await endOf(start(port))).toEqual([1, `start: port ${port} is taken; choose another with PORT.\n`]);
    expect(await endOf(start("0", "--fast"))).toEqual([2, expect.stringMatching(/^start: unknown option --fast; /)]);
  } finally {
    first.kill();
  }
});

function endOf(server: ChildProcess): Promise<[code: number | null, stderr: string]> {
  return new Promise((resolve) => {
    let stderr = "";
    server.stderr!.on("data", (data) => (stderr += data));
    server.on("close", (code) => resolve([code, stderr]));
  });
}
