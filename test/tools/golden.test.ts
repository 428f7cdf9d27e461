import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { checkGolden } from "../../tools/research/golden.ts";
import { type Backend, openBackend } from "../../tools/training/backend.ts";

const FIXTURES = new URL("../fixtures/golden", import.meta.url).pathname;
/** Of fixtures/make-golden.py: 16×24 px, two heads of 12 channels, three blocks, an MLP narrower than the network. */
const OBLONG = new URL("../fixtures/golden-oblong", import.meta.url).pathname;
let backend: Backend;

beforeAll(async () => {
  backend = await openBackend("tfjs-node");
});

test("search model, losses, gradients, AdamW, masks, slim logits and counts are the golden ones", () => {
  const rows = checkGolden(backend.tf, FIXTURES);
  expect(rows.length).toBeGreaterThan(350);
  expect(rows.filter((row) => !row.passed)).toEqual([]);
});

test("so are those of another shape, by PyTorch", () => {
  const rows = checkGolden(backend.tf, OBLONG);
  expect(rows.length).toBeGreaterThan(250);
  expect(rows.filter((row) => !row.passed)).toEqual([]);
});

test("the same code gives the golden numbers on the wasm backend", async () => {
  const { tf } = await openBackend("wasm");
  expect(checkGolden(tf, FIXTURES).filter((row) => !row.passed)).toEqual([]);
});

test("one wrong golden number is noticed", () => {
  const dir = mkdtempSync(join(tmpdir(), "golden-"));
  temporary.push(dir);
  cpSync(FIXTURES, dir, { recursive: true });
  const golden = JSON.parse(readFileSync(join(dir, "golden.json"), "utf8"));
  golden.modes.head.budgets.b3.mlp_kept[1] += 1;
  writeFileSync(join(dir, "golden.json"), JSON.stringify(golden));
  const failed = checkGolden(backend.tf, dir).filter((row) => !row.passed);
  expect(failed.map((row) => row.quantity)).toEqual(["head b3: units kept"]);
});

const temporary: string[] = [];
afterAll(() => {
  for (const dir of temporary) rmSync(dir, { recursive: true, force: true });
});
