import { spawn } from "node:child_process";
import { cpSync, existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, expect, test } from "vitest";
import { readManifestFile, readModelFolder, sha256 } from "../../tools/models/folders.ts";
import { BIN, makeDense, onAllPictures, slimvitJson, workplace } from "../tools/fixtures.ts";
import { count, Tally } from "./tally.ts";

const KILL_AT = fileURLToPath(new URL("kill-at.mjs", import.meta.url));
const at = workplace("killed");
const training = ["--data", at("pictures"), "--batch", "3", "--epochs", "2", "--val-pictures", "0"];
training.push("--checkpoint-seconds", "0", "--resume");
// With a name: a model.onnx says it, and is otherwise called after its folder.
const shipping = ["--dtype", "f32,f16,int8", "--onnx", "--name", "shipped"];
const cuts = ["--attn", "0.7", "--mlp", "0.7", "--patch", "0.7"];
const quickly = ["--epochs", "1", "--batch", "3", "--set", "eval.engine=reference"];

beforeAll(async () => {
  await makeDense(at, 5);
  await slimvitJson("search", at("dense"), "-o", at("searched"), ...training);
  await slimvitJson("compress", at("searched"), "-o", at("slim"), ...cuts);
  await slimvitJson("export", at("dense"), "-o", at("shipped"), ...shipping);
  for (const name of ["a", "b"]) {
    cpSync(at("shipped"), at(name), { recursive: true });
    await slimvitJson("eval", at(name), ...onAllPictures(at), "--record");
  }
});

interface Killed {
  args: (out: string) => string[];
  /** model folder that lies under the output's name before */
  over?: string;
  /** whether it can be given again when its output is there */
  again?: boolean;
  attempts: number;
}

const COMMANDS: Record<string, Killed> = {
  import: {
    args: (out) => ["import", at("tiny.safetensors"), "-o", out, "--heads", "2", "--labels", at("labels.tsv")],
    attempts: count(8, 1),
  },
  export: { args: (out) => ["export", at("dense"), "-o", out, ...shipping], attempts: count(30, 1) },
  "export --force": {
    args: (out) => ["export", at("dense"), "-o", out, ...shipping, "--force"],
    over: "slim",
    again: true,
    attempts: count(16, 2),
  },
  compress: { args: (out) => ["compress", at("searched"), "-o", out, ...cuts], attempts: count(8, 1) },
  elastic: {
    args: (out) => ["elastic", at("a"), "-o", out, "--name", "ab", "--budgets", "1,0.7", "--dtype", "f32"],
    attempts: count(12, 1),
  },
  "eval --record": {
    args: (out) => ["eval", out, ...onAllPictures(at), "--record"],
    over: "shipped",
    again: true,
    attempts: count(8, 1),
  },
  search: { args: (out) => ["search", at("dense"), "-o", out, ...training], attempts: count(6, 0) },
  retrain: { args: (out) => ["retrain", at("slim"), "-o", out, ...training], attempts: count(8, 0) },
  finetune: { args: (out) => ["finetune", at("dense"), "-o", out, ...training], attempts: count(6, 0) },
  slim: {
    args: (out) => ["slim", at("dense"), "-o", out, "--data", at("pictures"), "--macs", "0.6", ...quickly],
    again: true,
    attempts: count(6, 0),
  },
};

test.each(Object.entries(COMMANDS).filter(([, { attempts }]) => attempts))(
  "%s, killed at a random moment, leaves all or nothing under the name, and gives the same when it is run again",
  async (name, { args, over, again, attempts }) => {
    const tally = new Tally("tools-killed", name);
    const prepare = (out: string) => over && cpSync(at(over), out, { recursive: true });
    const whole = at(`${name} whole`);
    prepare(whole);
    const { status, changes, ms } = await run(args(whole));
    expect(status).toBe(0);
    const expected = contentOf(whole);
    const before = over && contentOf(at(over));

    let killed = 0;
    for (let k = 0; k < attempts; k++) {
      const out = at(`${name} ${k}`);
      prepare(out);
      const share = (0.618 * (k + 1)) % 1;
      // Every other time in the middle of a change to the disk, which random moments would seldom meet.
      const when = k % 2 ? { ms: (0.2 + 0.8 * share) * ms } : { change: 1 + Math.floor(share * changes) };
      const { isKilled } = await run(args(out), when);
      if (isKilled) killed++;
      const left = existsSync(out) ? contentOf(out) : undefined;
      const isWhole = left === undefined || left === before || withoutMetrics(left) === withoutMetrics(expected);
      const rerun = again || left === undefined ? await run(args(out)) : undefined;
      const isSame = existsSync(out) && contentOf(out) === expected;
      const said = `${name} at ${JSON.stringify(when)}`;
      // One that ran to its end has shown nothing: at a change to the disk the kill cannot come too late.
      const isTried = isKilled || "ms" in when;
      const isFine = isTried && isWhole && isSame && !rerun?.status;
      tally.add(isFine ? "" : `${said}: killed ${isKilled}, left ${left}, then ${rerun?.stderr}`);
      for (const file of readdirSync(at())) if (file.includes(`${name} ${k}`)) rmSync(at(file), { recursive: true });
    }
    expect(killed).toBeGreaterThan(0);
    tally.measured = `${killed} before its end, of ${changes} changes to the disk`;
    tally.close();
  },
);

interface Ended {
  status: number | null;
  isKilled: boolean;
  stderr: string;
  /** to files and folders, where it was not killed */
  changes: number;
  ms: number;
}

function run(args: string[], when: { ms?: number; change?: number } = {}): Promise<Ended> {
  const start = performance.now();
  const env = { ...process.env, KILL_UNDER: at(), KILL_AT: String(when.change ?? "") };
  const stdio = ["ignore", "ignore", "pipe"] as const;
  const child = spawn(process.execPath, ["--import", KILL_AT, BIN, ...args], { stdio: [...stdio], env });
  const timer = when.ms !== undefined && setTimeout(() => child.kill("SIGKILL"), when.ms);
  let stderr = "";
  child.stderr!.on("data", (data) => (stderr += data));
  return new Promise((resolve) => {
    child.on("close", (status, signal) => {
      if (timer) clearTimeout(timer);
      const changes = Number(stderr.trimEnd().split("\n").at(-1));
      resolve({ status, isKilled: signal === "SIGKILL", stderr, changes, ms: performance.now() - start });
    });
  });
}

/** What a killed command leaves beside what it was to replace. */
const UNFINISHED = /\.part-[0-9a-f]+$/;

/** A model that is whole, but whose accuracy has not been recorded yet, is none the less whole: `slim` exports, then measures. */
const withoutMetrics = (content: string) => content.replace(/^(.*slimvit\.json) \{.*\}$/gm, "$1");

/** What is in a folder, by the bytes where they are the same each time; what is wrong with its models. */
function contentOf(folder: string): string {
  const files = (readdirSync(folder, { recursive: true }) as string[]).filter((file) => !UNFINISHED.test(file));
  const lines = files.sort().map((file) => {
    const path = join(folder, file);
    if (/\.(safetensors|onnx)$/.test(file)) return `${file} ${sha256(readFileSync(path))}`;
    if (!file.endsWith("slimvit.json")) return file;
    try {
      const { weights, metrics } = readManifestFile(join(path, ".."));
      for (const { dtype } of weights) readModelFolder(join(path, ".."), dtype);
      return `${file} ${JSON.stringify(metrics)}`;
    } catch (error) {
      return String(error);
    }
  });
  return lines.join("\n");
}
