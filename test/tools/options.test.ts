/** Values of options as the command line and recipes give them. */
import { expect, test } from "vitest";
import { keepList, list, pairList, threads } from "../../tools/options/values.ts";

test("a word that is given twice counts once", () => {
  expect(list(["f16", "int8"])("int8,f16,int8")).toEqual(["int8", "f16"]);
});

test("a block has one number", () => {
  expect(pairList("4:12,5:10")).toEqual(
    new Map([
      [4, 12],
      [5, 10],
    ]),
  );
  expect(() => pairList("4:12,4:10")).toThrow("expected each block once");
  expect(() => keepList("4:100,04:90")).toThrow("expected each block once");
});

test("the tools start as many threads as the runtime does", () => {
  expect(threads("64")).toBe(64);
  expect(() => threads("65")).toThrow("expected a whole number from 1 to 64");
});
