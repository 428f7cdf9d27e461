/** What stays in memory once a model is loaded. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import v8 from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, test } from "vitest";
import { Session } from "../../src/worker/session.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { randomModel } from "../helpers.ts";
import { listen } from "../servers.ts";

v8.setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

test("simd holds the weights in its own memory alone: the file's bytes are let go", async () => {
  const folder = mkdtempSync(join(tmpdir(), "slimvit-memory-"));
  const block = { headDims: [4], mlpHidden: 8, keepIdx: [0, 1, 2] };
  const arch = { imageSize: [8, 8] as [number, number], patchSize: 4, embedDim: 8, headDim: 4, layerNormEps: 1e-6 };
  const { manifest, tensors } = randomModel({ ...arch, prefixTokens: 1, blocks: [block] }, 3);
  writeModelFolder(folder, manifest, tensors, ["f32"]);
  const server = createServer((_, response) => void response.end(readFileSync(join(folder, "slimvit.json"))));
  const url = `${await listen(server)}/`;
  let file: WeakRef<ArrayBuffer> | undefined;
  const cache = {
    async get() {
      const bytes = new Uint8Array(readFileSync(join(folder, "model.f32.safetensors")));
      file = new WeakRef(bytes.buffer);
      return bytes;
    },
    async put() {},
  };
  const session = await Session.open(
    { source: { url }, engine: "simd", dtype: "f32", threads: 1, cache: false },
    { store: cache },
  );
  for (let k = 0; k < 5 && file!.deref(); k++) {
    await new Promise((resolve) => setTimeout(resolve, 20)); // a WeakRef holds on until the turn ends
    collect();
  }
  expect(file!.deref()).toBeUndefined();
  expect(session.info.labels).toHaveLength(5);
  session.dispose();
  server.close();
  rmSync(folder, { recursive: true });
});
