/**
 * README's section "Slim your own model", run line by line as a reader of a fresh clone types it: its `slim`, and its commands by
 * hand. The network is narrow but has so many blocks and patches that each number in the block means what it says.
 */
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { ROOT } from "../../scripts/section.ts";
import type { Tensors } from "../../src/format/model.ts";
import {
  BIN,
  CLASSES,
  randomTensors,
  slimvitJson,
  tinyArchitecture,
  workplace,
  writeCheckpoint,
  writeLabels,
  writePictures,
} from "../tools/fixtures.ts";

const at = workplace("readme");

/** One head of 64 channels, which is what import takes a network of this width to have. */
const NARROW = tinyArchitecture({ imageSize: [176, 176], patchSize: 16, embedDim: 64, headDim: 64 });
const DEPTH = 9;
const arch = { ...NARROW, blocks: Array.from({ length: DEPTH }, () => ({ ...NARROW.blocks[0], mlpHidden: 32 })) };

/** Random weights of this depth would blow up every rounding, which int8 refuses. */
function calm(tensors: Tensors): Tensors {
  const isLinear = (name: string) => name.endsWith("weight") && !name.includes("norm");
  return new Map(
    [...tensors].map(([name, tensor]) => [
      name,
      isLinear(name) ? { ...tensor, data: (tensor.data as Float32Array).map((value) => 0.3 * value) } : tensor,
    ]),
  );
}

/** Commands of the section's shell blocks, without their comments. */
const lines = readFileSync(join(ROOT, "README.md"), "utf8")
  .split("\n## ")
  .find((section) => section.startsWith("Slim your own model\n"))!
  .split("```")
  .filter((block) => block.startsWith("sh\n"))
  .flatMap((block) => block.replaceAll("\\\n", " ").split("\n").slice(1))
  .map((line) => line.replace(/#.*/, "").trim())
  .filter(Boolean);

beforeAll(async () => {
  writeCheckpoint(at("deit_tiny.safetensors"), calm(randomTensors(arch, CLASSES.length, 1)));
  writeLabels(at("classes.tsv"));
  await slimvitJson("import", at("deit_tiny.safetensors"), "-o", at("dense"), "--labels", at("classes.tsv"));
  mkdirSync(at("models"));
  cpSync(at("dense"), at("models", "deit-tiny"), { recursive: true });
  rmSync(at("dense"), { recursive: true }); // the block itself makes it
  await writePictures(at("pictures"), 10, ["apples", "figs", "limes"]);
});

describe("README's block", () => {
  test("prepares a clone by scripts that there are", () => {
    const prepare = lines.filter((line) => line.startsWith("npm "));
    const { scripts } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
    expect(prepare).toEqual(["npm ci && npm run setup:tools && npm run build"]);
    for (const [, name] of prepare[0].matchAll(/npm run ([\w:]+)/g)) expect(scripts).toHaveProperty(name);
  });

  test("ends with a model that is smaller than by thin alone, and at least as accurate", async () => {
    const commands = lines.filter((line) => !line.startsWith("npm "));
    expect(commands.map((line) => line.split(" ").slice(0, 3).join(" "))).toEqual(
      ["slim", "import", "finetune", "thin", "export"].map((command) => `npx slimvit ${command}`),
    );
    for (const line of commands) {
      const args = line.replace(/^npx slimvit /, "").split(/\s+/);
      const { status, stderr } = spawnSync(process.execPath, [BIN, ...args], { cwd: at(), encoding: "utf8" });
      expect(status, `${line}: ${stderr}`).toBe(0);
    }
    expect(existsSync(at("mine", "report.html"))).toBe(true);
    const options = ["--data", at("pictures"), "--split", "test", "--dtype", "int8"];
    const measured = async (name: string) => ({
      ...(await slimvitJson<{ top1: number }>("eval", at(name), ...options)),
      ...(await slimvitJson<{ macs: number }>("inspect", at(name))),
    });
    const slim = await measured("mine");
    const thin = await measured("thin-int8");
    expect(slim.macs).toBeLessThan(thin.macs);
    expect(slim.top1).toBeGreaterThanOrEqual(thin.top1);
  }, 900_000);
});
