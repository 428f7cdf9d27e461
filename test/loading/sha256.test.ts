import { createHash } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";
import { sha256 } from "../../src/loading/sha256.ts";

const known = (bytes: Uint8Array) => new Uint8Array(createHash("sha256").update(bytes).digest());

test("sha256 is Node's at every length around the blocks' ends", () => {
  for (let length = 0; length < 300; length++) {
    const bytes = Uint8Array.from({ length }, (_, i) => i * 7 + length);
    expect(sha256(bytes), `${length} bytes`).toEqual(known(bytes));
  }
});

test("sha256 is Node's for any bytes, also as a part of a larger buffer", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 2000 }), fc.nat(64), (bytes, from) => {
      const part = bytes.subarray(Math.min(from, bytes.length));
      expect(sha256(part)).toEqual(known(part));
    }),
  );
});

test("sha256 is Node's of a few megabytes", () => {
  const bytes = new Uint8Array(2 ** 22 + 3).fill(0xa5);
  expect(sha256(bytes)).toEqual(known(bytes));
});
