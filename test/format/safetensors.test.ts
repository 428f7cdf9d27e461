import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { SlimViTError } from "../../src/errors.ts";
import { readSafetensors, type StoredTensor, writeSafetensors } from "../../src/format/safetensors.ts";
import { Tally } from "../robustness/tally.ts";
import { refused } from "./fixtures.ts";

/** A file with this header, written as it is, and this many bytes of data. */
function file(header: string | object, dataBytes: number, claimed?: number): Uint8Array {
  const json = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + json.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(claimed ?? json.length), true);
  bytes.set(json, 8);
  return bytes;
}

/** One tensor "w" of two f32, in a file of 8 bytes of data, with these parts changed. */
function withEntry(changes: object, dataBytes = 8): Uint8Array {
  return file({ w: { dtype: "F32", shape: [2], data_offsets: [0, 8], ...changes } }, dataBytes);
}

function twoTensors(first: [number, number], second: [number, number], dataBytes: number): Uint8Array {
  const entry = ([begin, end]: [number, number]) => ({ dtype: "U8", shape: [end - begin], data_offsets: [begin, end] });
  return file({ a: entry(first), b: entry(second) }, dataBytes);
}

const entry = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}';
const huge = Number.MAX_SAFE_INTEGER;
const deep = (depth: number) => "[".repeat(depth) + "]".repeat(depth);

describe("a malformed file is refused with its name and the fault", () => {
  const tally = new Tally("format", "named malformed safetensors files");
  afterAll(() => tally.close());
  test.each<[string, Uint8Array, RegExp]>([
    ["empty", new Uint8Array(0), /is 0 bytes long/],
    ["seven bytes", new Uint8Array(7), /is 7 bytes long/],
    ["a header of no bytes", new Uint8Array(8), /no JSON header/],
    ["a header of 100 MB + 1", file({}, 0, 100_000_001), /header of 100000001 bytes/],
    ["a header of 2.5 MiB + 1", file({}, 0, 2_621_441), /header of 2621441 bytes; .*the limit is 2621440/],
    ["a header of 2^53", file({}, 0, 2 ** 53), /header of 9007199254740992 bytes/],
    ["a header of 2^64 − 1", new Uint8Array(64).fill(255), /claims a header/],
    ["a header longer than the file", file({}, 0, 3), /cut off inside its header \(3 bytes claimed, 2 there\)/],
    ["HTML", new TextEncoder().encode("<!doctype html><html></html>"), /claims a header/],
    ["a header that starts with a blank", file(" {}", 0), /no JSON header/],
    ["a header that is a list", file("[]", 0), /no JSON header/],
    ["a header that is no JSON", file("{w}", 0), /not JSON/],
    ["a header with something after it", file("{}{}", 0), /not JSON/],
    ["a header cut off by its own length", file(`{"w":${entry}}`, 8, 20), /not JSON/],
    ["a header that is not UTF-8", file('{"\u00e9":1}', 0).map((byte) => (byte === 0xc3 ? 0xff : byte)), /not UTF-8/],
    ["a duplicate key", file(`{"w":${entry},"w":${entry}}`, 8), /"w" twice/],
    ["a duplicate key in another spelling", file(`{"w":${entry}, "\\u0077" : ${entry}}`, 8), /"w" twice/],
    ["a duplicate __metadata__", file(`{"__metadata__":{},"__metadata__":{}}`, 0), /"__metadata__" twice/],
    ["a duplicate shape", file(`{"w":{"shape":[1],${entry.slice(1)}}`, 8), /"shape" twice/],
    ["a tensor that is null", file({ w: null }, 0), /"w" has no description/],
    ["a tensor that is a number", file({ w: 1 }, 0), /"w" has no description/],
    ["a tensor that is a list", file({ w: [] }, 0), /"w" has dtype undefined/],
    ["an entry made of __proto__", file(`{"w":{"__proto__":${entry}}}`, 8), /"w" has dtype undefined/],
    ["a tensor named __proto__ without description", file('{"__proto__":{}}', 0), /"__proto__" has dtype undefined/],
    ["no dtype", withEntry({ dtype: undefined }), /dtype undefined/],
    ["an unknown dtype", withEntry({ dtype: "F8" }), /dtype "F8"/],
    ["a dtype of lower case", withEntry({ dtype: "f32" }), /dtype "f32"/],
    ["a dtype that every object has", withEntry({ dtype: "constructor" }), /dtype "constructor"/],
    ["a dtype that is a number", withEntry({ dtype: 1 }), /dtype 1/],
    ["a dtype without end", withEntry({ dtype: "F".repeat(1e6) }), /dtype "F{79}…"/],
    ["no shape", withEntry({ shape: undefined }), /shape undefined/],
    ["a shape that is a number", withEntry({ shape: 2 }), /shape 2/],
    ["a negative size", withEntry({ shape: [-2] }), /shape \[-2\]/],
    ["two negative sizes", withEntry({ shape: [-1, -2] }), /shape \[-1, -2\]/],
    ["a fractional size", withEntry({ shape: [0.5, 4] }), /shape \[0.5, 4\]/],
    ["a size over 2^53", withEntry({ shape: [2 ** 53] }), /shape \[9007199254740992\]/],
    ["a size that is text", withEntry({ shape: ["2"] }), /shape \["2"\]/],
    ["a size that is null", withEntry({ shape: [null] }), /shape \[null\]/],
    [
      "a size that is infinite",
      file(`{"w":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}`, 8),
      /shape \[Infinity\]/,
    ],
    ["a shape product over 2^53", withEntry({ shape: [2 ** 27, 2 ** 27] }), /impossible shape/],
    ["a shape product that would wrap 64 bits to 8", withEntry({ shape: [2 ** 33, 2 ** 31, 2] }), /impossible shape/],
    ["a shape product that overflows on its way to 0", withEntry({ shape: [huge, huge, 0] }), /impossible shape/],
    [
      "a shape nested a million deep",
      file(`{"w":{"dtype":"F32","shape":${deep(1e6)},"data_offsets":[0,8]}}`, 8),
      /shape \[…\]/,
    ],
    ["no offsets", withEntry({ data_offsets: undefined }), /data_offsets undefined/],
    ["one offset", withEntry({ data_offsets: [0] }), /data_offsets \[0\]/],
    ["three offsets", withEntry({ data_offsets: [0, 8, 8] }), /data_offsets \[0, 8, 8\]/],
    [
      "a million offsets",
      withEntry({ data_offsets: Array(1e6).fill(0) }),
      /data_offsets \[0, 0, 0, 0, 0, 0, 0, 0, …\]/,
    ],
    ["reversed offsets", withEntry({ data_offsets: [8, 0] }), /ends \(0\) before it begins \(8\)/],
    ["a negative offset", withEntry({ data_offsets: [-8, 0] }), /data_offsets \[-8, 0\]/],
    ["a fractional offset", withEntry({ data_offsets: [0, 7.5] }), /data_offsets \[0, 7.5\]/],
    ["an offset over 2^53", withEntry({ data_offsets: [0, 2 ** 53] }), /data_offsets \[0, 9007199254740992\]/],
    [
      "an offset of 2^53 − 1",
      withEntry({ data_offsets: [0, huge] }),
      /is cut off: tensor "w" ends at byte 9007199254740991/,
    ],
    ["offsets that are text", withEntry({ data_offsets: ["0", "8"] }), /data_offsets \["0", "8"\]/],
    [
      "an end past the file",
      withEntry({ data_offsets: [0, 12], shape: [3] }),
      /ends at byte 12 of the data, 8 are there/,
    ],
    ["fewer bytes than the dtype needs", withEntry({ dtype: "F64" }), /\(F64 \[2\]\) needs 16 bytes and has 8/],
    ["more bytes than the dtype needs", withEntry({ dtype: "F16" }), /\(F16 \[2\]\) needs 4 bytes and has 8/],
    ["more bytes than the shape needs", withEntry({ shape: [] }), /needs 4 bytes and has 8/],
    ["a scalar without bytes", withEntry({ shape: [], data_offsets: [0, 0] }), /needs 4 bytes and has 0/],
    ["trailing bytes", withEntry({}, 9), /has 1 bytes after its last tensor/],
    ["bytes and no tensor", file({}, 4), /has 4 bytes after its last tensor/],
    ["missing bytes", withEntry({}, 7), /is cut off/],
    ["an overlap", twoTensors([0, 6], [4, 8], 8), /"b" overlaps/],
    ["an overlap of one byte", twoTensors([0, 5], [4, 8], 8), /"b" overlaps/],
    ["the same bytes twice", twoTensors([0, 8], [0, 8], 8), /"b" overlaps/],
    ["a tensor inside another", twoTensors([0, 8], [2, 4], 8), /"b" overlaps/],
    ["a hole", twoTensors([0, 4], [5, 8], 8), /hole of 1 bytes before tensor "b"/],
    ["a hole at the start", twoTensors([1, 4], [4, 8], 8), /hole of 1 bytes before tensor "a"/],
    ["an empty tensor outside", twoTensors([0, 8], [9, 9], 8), /ends at byte 9/],
  ])("%s", (_, bytes, fault) => {
    tally.claim(() => expect(() => readSafetensors(bytes, "x.safetensors")).toThrow(refused("x\\.safetensors", fault)));
  });

  test("cut at every byte", () => {
    const whole = writeSafetensors(
      new Map([
        ["a", { dtype: "F32" as const, shape: [2], data: Float32Array.of(1, 2) }],
        ["b", { dtype: "F16" as const, shape: [3], data: Uint16Array.of(1, 2, 3) }],
      ]),
    );
    for (let length = 0; length < whole.length; length++) {
      tally.claim(() =>
        expect(() => readSafetensors(whole.subarray(0, length), "x"), `cut at ${length}`).toThrow(SlimViTError),
      );
    }
    expect(readSafetensors(whole, "x").size).toBe(2);
  });

  test("tensors that overlap do not make the reader copy the file for each of them", () => {
    const mebibyte = 2 ** 20;
    const claims = Array.from({ length: 4000 }, (_, i) => {
      return [`w${i}`, { dtype: "F32", shape: [mebibyte / 4], data_offsets: [0, mebibyte] }];
    });
    const padding = [0, 1, 2, 3].map((blanks) =>
      file(JSON.stringify(Object.fromEntries(claims)) + " ".repeat(blanks), mebibyte),
    );
    for (const bytes of padding) {
      const before = process.memoryUsage().arrayBuffers;
      expect(() => readSafetensors(bytes, "x")).toThrow(/overlaps/);
      expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(100e6);
    }
  });
});

describe("a well-formed file is read", () => {
  test("with no tensor", () => expect(readSafetensors(file({}, 0), "x").size).toBe(0));

  test("with blanks after its header and with metadata", () => {
    const bytes = file(`{"__metadata__":{"format":"pt"},"w":${entry}}   `, 8);
    expect([...readSafetensors(bytes, "x").keys()]).toEqual(["w"]);
  });

  test("with tensors of no element, scalars, and data in another order than the header's", () => {
    const bytes = file(
      {
        last: { dtype: "U8", shape: [2], data_offsets: [1, 3] },
        none: { dtype: "F32", shape: [0, 7], data_offsets: [1, 1] },
        scalar: { dtype: "I8", shape: [], data_offsets: [0, 1] },
      },
      3,
    );
    bytes.set([255, 1, 2], bytes.length - 3);
    const tensors = readSafetensors(bytes, "x");
    expect([...tensors.get("scalar")!.data]).toEqual([-1]);
    expect([...tensors.get("last")!.data]).toEqual([1, 2]);
    expect(tensors.get("none")!.data.length).toBe(0);
  });

  test("with the names that objects have of themselves", () => {
    const bytes = file(`{"__proto__":${entry},"toString":{"dtype":"U8","shape":[0],"data_offsets":[8,8]}}`, 8);
    expect([...readSafetensors(bytes, "x").keys()]).toEqual(["__proto__", "toString"]);
    expect(({} as { dtype?: string }).dtype).toBeUndefined();
  });

  test("at any alignment, and from a part of a larger buffer", () => {
    const bytes = withEntry({});
    new DataView(bytes.buffer).setFloat32(bytes.length - 8, 1.5, true);
    for (let shift = 0; shift < 8; shift++) {
      const larger = Buffer.alloc(bytes.length + 16, 0xee);
      larger.set(bytes, shift);
      expect([...readSafetensors(larger.subarray(shift, shift + bytes.length), "x").get("w")!.data]).toEqual([1.5, 0]);
    }
  });
});

test("what is written is read back, whatever the dtypes and shapes", () => {
  const tensor = fc.oneof(
    fc.float32Array({ maxLength: 12 }).map((data) => ({ dtype: "F32" as const, data })),
    fc.float64Array({ maxLength: 12 }).map((data) => ({ dtype: "F64" as const, data })),
    fc.uint16Array({ maxLength: 12 }).map((data) => ({ dtype: "BF16" as const, data })),
    fc.int8Array({ maxLength: 12 }).map((data) => ({ dtype: "I8" as const, data })),
    fc.bigInt64Array({ maxLength: 12 }).map((data) => ({ dtype: "I64" as const, data })),
  );
  const name = fc
    .oneof(fc.string({ unit: "binary" }), fc.constant("__proto__"))
    .filter((key) => key !== "__metadata__");
  fc.assert(
    fc.property(fc.uniqueArray(fc.tuple(name, tensor), { selector: ([key]) => key, maxLength: 6 }), (list) => {
      const tensors = new Map<string, StoredTensor>(
        list.map(([key, { dtype, data }]) => [key, { dtype, shape: [1, data.length], data }]),
      );
      const back = readSafetensors(writeSafetensors(tensors, { made: "here" }), "x");
      expect([...back.keys()].sort()).toEqual([...tensors.keys()].sort());
      for (const [key, value] of tensors) expect(back.get(key)).toEqual(value);
    }),
    { numRuns: 300 },
  );
});
