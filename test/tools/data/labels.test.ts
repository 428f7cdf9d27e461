/** Class folders → a model's labels. */
import { writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { classOrder, labelIndices } from "../../../tools/data/classes.ts";
import { readLabelsFile } from "../../../tools/models/labels.ts";
import { workplace } from "../fixtures.ts";

const at = workplace("labels");

describe("classes and labels", () => {
  const labels = (...names: string[]) => names.map((label, k) => ({ id: String(k), label }));
  const indices = (names: string[], of: { id: string; label: string }[]) => [...labelIndices(names, of).values()];

  test("ids that an import made up never beat labels", () => {
    expect(indices(["0", "1", "2"], labels("2", "0", "1"))).toEqual([1, 2, 0]);
    expect(indices(["2"], labels("2", "0", "1"))).toEqual([0]);
    expect(indices(["2"], labels("tench", "crane", "tit"))).toEqual([2]);
  });

  test("ids of the checkpoint's own come before labels", () => {
    const own = [
      { id: "n1", label: "n2" },
      { id: "n2", label: "n1" },
    ];
    expect(indices(["n1", "n2"], own)).toEqual([0, 1]);
  });

  test("accents, underscores and spaces are no difference", () => {
    expect(indices(["e\u0301te\u0301", "hot_dog"], labels("hot dog", "\u00e9t\u00e9"))).toEqual([1, 0]);
  });

  test("a name of two classes is refused, and their ids are told apart", () => {
    const cranes = [
      { id: "n02012849", label: "crane" },
      { id: "n03126707", label: "crane" },
    ];
    expect(() => labelIndices(["crane"], cranes)).toThrow(
      /is the name of 2 classes of the model, "n02012849", "n03126707"/,
    );
    expect(indices(["n03126707"], cranes)).toEqual([1]);
  });

  test("another model's classes are found by name, in whatever order, or refused", () => {
    expect(classOrder(labels("a", "b", "c"), labels("c", "a", "b"), "teacher")).toEqual([1, 2, 0]);
    expect(classOrder(labels("a", "b"), labels("class 0", "class 1"), "teacher")).toEqual([0, 1]);
    const byId = [
      { id: "x", label: "one" },
      { id: "y", label: "two" },
    ];
    expect(classOrder(byId, [...byId].reverse(), "teacher")).toEqual([1, 0]);
    expect(classOrder(labels("a", "a", "b"), labels("a", "a", "b"), "teacher")).toEqual([0, 1, 2]);
    expect(() => classOrder(labels("a", "a", "b"), labels("b", "a", "a"), "teacher")).toThrow(
      /some names are of several/,
    );
    expect(() => classOrder(labels("a", "b"), labels("a", "c"), "teacher")).toThrow(/"b" is not among its labels/);
    expect(() => classOrder(labels("a", "b"), labels("a", "b", "c"), "teacher")).toThrow(
      /has 3 classes, and 2 are needed/,
    );
  });
});

test("a file of names alone gives classes of the same name an id each; a folder is no such file", () => {
  const file = at("names.txt");
  writeFileSync(file, "crane\r\ntit\r\ncrane\r\n");
  expect(readLabelsFile(file, 3)).toEqual([
    { id: "crane #0", label: "crane" },
    { id: "tit", label: "tit" },
    { id: "crane #2", label: "crane" },
  ]);
  expect(() => readLabelsFile(at("."), 3)).toThrow(/no such file/);
  writeFileSync(file, Buffer.from("caf\xe9\n", "latin1"));
  expect(() => readLabelsFile(file, 1)).toThrow(/names\.txt: is not in UTF-8/);
});

test("a file of ids and names gives each class its first name, unless another class has that too", () => {
  const file = at("ids.tsv");
  writeFileSync(file, "n1\ttench, Tinca tinca\nn2\tcrane, bird\nn3\tcrane, machine\nn4\t\n");
  expect(readLabelsFile(file, 4)).toEqual([
    { id: "n1", label: "tench" },
    { id: "n2", label: "crane, bird" },
    { id: "n3", label: "crane, machine" },
    { id: "n4", label: "n4" },
  ]);
  writeFileSync(file, "n1\ttench\nn2\tcrane\nn1\ttit\n");
  expect(() => readLabelsFile(file, 3)).toThrow(/has the id "n1" twice/);
  expect(() => readLabelsFile(file, 4)).toThrow(/has 3 lines; the model has 4 classes/);
});
