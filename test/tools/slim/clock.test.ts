/** Times to train, what of them is left after an interruption, and decisions that are made once. */
import { existsSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { expect, test } from "vitest";
import { TrainingClock, trainChoice } from "../../../tools/slim/clock.ts";
import { decided } from "../../../tools/slim/decided.ts";
import { workplace } from "../fixtures.ts";

const at = workplace("clock");

test.each([
  ["auto", "auto"],
  ["no", "no"],
  ["2h", 7200],
  ["30m", 1800],
  ["45 min", 2700],
  ["1.5h", 5400],
])("--train %s is %s", (text, choice) => expect(trainChoice(text)).toBe(choice));

test.each(["", "2", "0h", "-1h", "1d", "h"])('--train "%s" is refused', (text) =>
  expect(() => trainChoice(text)).toThrow("expected auto, no, or a time"),
);

test("the time that is used is counted over several runs, also where the work fails", async () => {
  const file = at("clock.json");
  const clock = new TrainingClock(100, file);
  expect([clock.isGiven, clock.total, clock.left, existsSync(file)]).toEqual([true, 100, 100, false]);
  expect(await clock.during(() => setTimeout(30, "done"))).toBe("done");
  const first = clock.left;
  expect(first).toBeLessThan(100 - 0.02);
  const again = new TrainingClock(100, file);
  expect(again.left).toBeCloseTo(first, 6);
  await expect(again.during(() => setTimeout(30).then(() => Promise.reject(new Error("stopped"))))).rejects.toThrow();
  expect(new TrainingClock(100, file).left).toBeLessThan(first - 0.02);
  expect(new TrainingClock(0.01, file).left).toBe(0);
});

test("without a given time there are two hours, and none where nothing is to be trained", () => {
  const clocks = (["auto", "no"] as const).map((choice) => new TrainingClock(choice, at("none.json")));
  expect(clocks.map(({ isGiven, total, left }) => [isGiven, total, left])).toEqual([
    [false, 7200, 7200],
    [false, 0, 0],
  ]);
});

test("a decision is made once for each key, and false is one, too", async () => {
  let asked = 0;
  const decide = (key: string, value: boolean | number) =>
    decided(at("plans.json"), key, async () => {
      asked++;
      return value;
    });
  expect([await decide("a", false), await decide("b", 3)]).toEqual([false, 3]);
  expect([await decide("a", true), await decide("b", 4)]).toEqual([false, 3]);
  expect(asked).toBe(2);
});
