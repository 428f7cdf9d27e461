/** The faults of `npm run mutation:plant` still fit the sources; whether tests notice them takes hours and is not tried here. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { GROUPS, timesInSources } from "../../scripts/plants/groups.ts";
import { ROOT } from "../../scripts/section.ts";

const plants = Object.values(GROUPS).flat();

test("each fault takes the place of a text that its file has exactly once, and changes it", () => {
  expect(plants.length).toBeGreaterThan(50);
  const stale = plants.filter((plant) => timesInSources(plant) !== 1 || plant.plant === plant.find);
  expect(stale.map(({ file, name }) => `${file}: ${name}`)).toEqual([]);
});

test("the tests that are to notice them exist", () => {
  const tests = plants.flatMap(({ tests }) => tests);
  expect(plants.filter(({ tests }) => !tests.length)).toEqual([]);
  expect(tests.filter((file) => !existsSync(join(ROOT, file)))).toEqual([]);
});
