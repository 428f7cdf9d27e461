import { describe, expect, test } from "vitest";
import { MAX_MEMBERS, MAX_SET_BYTES, readSet, type SetMember, worthHaving } from "../../src/format/set.ts";

const member = (folder: unknown, changes: object = {}) => ({
  folder,
  macs: 1000,
  params: 500,
  bytes: { f16: 1100, int8: 700 },
  accuracy: { top1: 0.5, n: 40, data: "fruit", split: "test", engine: "simd", dtype: "f16" },
  ...changes,
});
const setOf = (...members: unknown[]) => ({ format: "slimvit-set/1", name: "fruit", members });
const read = (json: unknown) => readSet(JSON.stringify(json), "x/set.json", "https://a.example/x/");

describe("a set is read", () => {
  test("with its members' folders below its own, however they are given", () => {
    const { members } = read(setOf(member("small"), member("more/large/"), member("https://a.example/x/huge.2/")));
    expect(members.map(({ folder }) => folder)).toEqual(["small", "more/large", "huge.2"]);
    expect(members[0]).toEqual(member("small"));
  });

  test.each([
    "..",
    "../other",
    "small/../../other",
    "/small",
    "//b.example/small",
    "https://b.example/x/small",
    "https://a.example/xy/small",
    "https://a.example/x/../other",
    "..\\other",
    "%2e%2e/other",
    "small%2f..%2f..",
    "small?x",
    "small#x",
    ".",
    "",
    "javascript:alert(1)",
    "small\n",
    7,
    null,
    ["small"],
  ])("and none out of it: %j", (folder) => {
    expect(() => read(setOf(member("good"), member(folder)))).toThrow(/^x\/set\.json: members\[1\]\.folder is /);
  });

  test.each<[string, unknown, RegExp]>([
    ["a list", [], /the set is \[\]; expected an object/],
    ["another format", { ...setOf(member("a")), format: "slimvit-set/2" }, /has format "slimvit-set\/2"/],
    ["no name", { format: "slimvit-set/1", members: [member("a")] }, /name is undefined; expected a string/],
    ["no member", setOf(), /members has 0 entries/],
    ["too many members", setOf(...Array(MAX_MEMBERS + 1).fill(member("a"))), /members has 33 entries/],
    ["a member twice", setOf(member("a"), member("a/")), /member "a" is there twice/],
    ["a member that is none", setOf(member("a"), 3), /members\[1\] is 3; expected an object/],
    ["no MACs", setOf(member("a", { macs: 0 })), /member "a": macs is 0; expected a whole number/],
    ["half parameters", setOf(member("a", { params: 1.5 })), /member "a": params is 1.5/],
    ["no bytes", setOf(member("a", { bytes: {} })), /member "a": bytes is empty/],
    ["bytes of an unknown dtype", setOf(member("a", { bytes: { f64: 9 } })), /member "a": bytes has "f64"/],
    ["bytes that are none", setOf(member("a", { bytes: { f16: "9" } })), /member "a": bytes\.f16 is "9"/],
    ["accuracy over 1", setOf(member("a", { accuracy: { top1: 75, n: 9 } })), /member "a": accuracy\.top1 is 75/],
    ["accuracy on nothing", setOf(member("a", { accuracy: { top1: 0.75, n: 0 } })), /member "a": accuracy\.n is 0/],
    ["accuracy on unnamed data", setOf(member("a", { accuracy: { top1: 0.7, n: 9 } })), /accuracy\.data is undefined/],
  ])("or refused in one sentence: %s", (_, json, message) => {
    const fault = (() => {
      try {
        return read(json) as never;
      } catch (error) {
        return error as { code: string; message: string };
      }
    })();
    expect(fault.code).toBe("bad-model");
    expect(fault.message).toMatch(message);
    expect(fault.message).toMatch(/^x\/set\.json: /);
  });

  test("or refused for its length, before it is parsed", () => {
    expect(() => readSet(" ".repeat(MAX_SET_BYTES + 1), "x/set.json")).toThrow(/is longer than 65536 bytes/);
  });

  test("or refused as no JSON", () => {
    expect(() => readSet("{", "x/set.json")).toThrow(/^x\/set\.json: is not JSON/);
  });

  test("or told to be a single model", () => {
    expect(() => read({ format: "slimvit/1" })).toThrow(/is a single model.*slimvit set/);
  });
});

test("members that another beats for no more MACs are not worth having", () => {
  const of = (folder: string, macs: number, top1: number) =>
    member(folder, { macs, accuracy: { ...member("").accuracy, top1 } }) as SetMember;
  const members = [of("c", 300, 0.8), of("b", 200, 0.6), of("a", 100, 0.7), of("d", 300, 0.9), of("e", 400, 0.9)];
  expect(worthHaving(members).map(({ folder }) => folder)).toEqual(["a", "d"]);
});
