import { expect, test, vi } from "vitest";
import { openSimd } from "../../src/engines/simd/engine.ts";
import { SYNC_EPOCH } from "../../src/engines/simd/layout.ts";
import { randomModel, randomPixels, readGolden } from "../helpers.ts";

// In a file of its own, with V8 as it comes: simd.test.ts turns its baseline compiler off, whose i32.atomic.wait waits at a wrong
// address in Node 20.
test("between runs all helpers sleep where the next one wakes them, and its result is right", async () => {
  const { manifest } = readGolden().model;
  const model = randomModel(manifest, 5);
  const pixels = randomPixels(manifest, 7);
  const alone = await openSimd(model, { threads: 1 });
  const engine = await openSimd(model, { threads: 3 });
  try {
    const { memory, plan } = engine as unknown as { memory: WebAssembly.Memory; plan: { sync: number } };
    const words = new Int32Array(memory.buffer, plan.sync);
    const expected = (await alone.run(pixels)).logits;
    for (let run = 0; run < 3; run++) {
      await vi.waitFor(() => expect(Atomics.notify(words, SYNC_EPOCH)).toBe(2), { timeout: 10_000 });
      expect((await engine.run(pixels)).logits).toEqual(expected);
      expect(words[SYNC_EPOCH]).toBe(run + 1);
    }
  } finally {
    alone.dispose();
    engine.dispose();
  }
});
