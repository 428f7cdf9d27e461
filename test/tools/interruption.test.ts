/** Trainings that are stopped lose nothing, and go on with the same data wherever it lies. */
import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { relative } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { readManifestFile } from "../../tools/models/folders.ts";
import { commandLine } from "../../tools/shared/interrupt.ts";
import { withLock } from "../../tools/shared/lock.ts";
import { timer } from "../../tools/shared/progress.ts";
import { checkpointOf } from "../../tools/training/options.ts";
import { RECIPE_DEFAULTS } from "../../tools/training/recipe.ts";
import { scalarsCsv, tensorBoardEvents } from "../../tools/training/scalars.ts";
import { BIN, expectFailure, makeDense, slimvit, workplace } from "./fixtures.ts";

const at = workplace("interruption");
beforeAll(() => makeDense(at, 5)); // 9 training pictures

test("Ctrl-C writes the checkpoint and names the command, which goes on from it", async () => {
  const args = ["retrain", at("dense"), "--data", at("pictures"), "-o", at("out"), "--batch", "3", "--epochs", "40"];
  const child = spawn(process.execPath, [BIN, ...args], { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  let sent = false;
  child.stderr.on("data", (text) => {
    said += text;
    // The second step tells how long the rest will take.
    if (!sent && /retrain: 2\/120 .* left/.test(said)) sent = child.kill("SIGINT");
  });
  const status = await new Promise((resolve) => child.on("exit", resolve));
  expect(said).toMatch(/retrain: stopped at step \d+ of 120; .*\.out\.checkpoint\.safetensors holds its state/);
  expect(said).toContain(commandLine(args));
  expect(status).toBe(130);
  expect(existsSync(at("out"))).toBe(false);

  const changed = args.map((word) => (word === "40" ? "41" : word));
  await expectFailure(changed, 2, /is the checkpoint of another training \(--epochs was 40, is 41\)/);
  const whole = await slimvit(...args);
  expect(whole.stderr).toMatch(/retrain: resumed at step \d+ of 120/);
  expect(whole.stderr).toMatch(/retrain: step \d+ of 120: top-1 [\d.]+ % on val/);
  expect(whole.status).toBe(0);
  const history = JSON.parse(readFileSync(at("out", "history.json"), "utf8"));
  expect(readFileSync(at("out", "scalars.csv"), "utf8")).toBe(scalarsCsv(history));
  expect(readFileSync(at("out", "events.out.tfevents.0.slimvit"))).toEqual(Buffer.from(tensorBoardEvents(history)));
});

describe("a checkpoint fits", () => {
  const identityOf = async (more: object = {}) => {
    const options = {
      ...RECIPE_DEFAULTS,
      data: [at("pictures")],
      split: "train" as const,
      out: at("x"),
      precision: "f32" as const,
    };
    return (await checkpointOf("retrain", readManifestFile(at("dense")), { ...options, ...more })).identity;
  };

  test("data and a teacher that moved, or are spelled otherwise", async () => {
    cpSync(at("pictures"), at("elsewhere"), { recursive: true });
    writeFileSync(at("elsewhere", ".DS_Store"), "of the system's own");
    cpSync(at("dense"), at("teacher"), { recursive: true });
    const first = await identityOf({ teacher: at("dense") });
    for (const data of [`${at("pictures")}/`, relative(".", at("pictures")), at("elsewhere")])
      expect(await identityOf({ data: [data], teacher: at("teacher") })).toEqual(first);
  });

  test("but no other pictures, and no other options", async () => {
    cpSync(at("pictures"), at("changed"), { recursive: true });
    writeFileSync(at("changed", "plums", "00.png"), readFileSync(at("pictures", "bananas", "00.png")));
    const first = await identityOf();
    expect(await identityOf({ data: [at("changed")] })).not.toEqual(first);
    expect(await identityOf({ mixup: 0.5 })).not.toEqual(first);
  });
});

describe("a dead lock is not waited for:", () => {
  const free = async (name: string, holder: string, age = 0) => {
    mkdirSync(at("locks"), { recursive: true });
    writeFileSync(at("locks", name), holder);
    const then = new Date(Date.now() - age);
    utimesSync(at("locks", name), then, then);
    let waits = 0;
    await withLock(
      at("locks", name),
      () => waits++,
      async () => {},
    );
    return waits;
  };

  test("one of this process's number, from before a restart", async () => {
    expect(await free("own", `${hostname()} ${process.pid} 0123456789abcdef`)).toBe(0);
  });

  test("one of another machine that has not been touched for two minutes", async () => {
    expect(await free("far", "another-machine 1 0123456789abcdef", 120_000)).toBe(0);
  });
});

test("what is left is told from the steps after the first, which is slower", () => {
  let now = 0;
  const left = timer(11, 0, () => now);
  now = 60_000;
  left(1);
  now = 62_000;
  expect(left(2)).toBe("18 s left");
});

test.each<[string, string[], RegExp]>([
  ["a budget of nothing", ["--macs", "0"], /'--macs <share>' argument '0' is invalid/],
  [
    "a target below what is left at least",
    ["--macs", "0.00001"],
    /slim: --macs 0\.00001 cannot be reached: [\d.]+ % of the dense model is left/,
  ],
  ["a teacher that is not there", ["--macs", "0.5", "--set", "retrain.teacher=nowhere"], /nowhere: no such folder/],
  ["data to measure on that is not there", ["--macs", "0.5", "--set", "eval.data=nowhere"], /nowhere: no such folder/],
])("%s is said before the training", async (_, args, message) => {
  writeFileSync(at("early.yaml"), "model: dense\ndata: pictures\nout: never\n");
  const { status, stderr } = await slimvit("slim", at("early.yaml"), ...args);
  expect(stderr).toMatch(message);
  expect(stderr).not.toMatch(/backend:/);
  expect(status).not.toBe(0);
  expect(existsSync(at("never.stages"))).toBe(false);
});
