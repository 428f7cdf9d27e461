/** Ctrl-C while slim searches. */
import { expect, test } from "vitest";
import { Stops } from "../../../tools/slim/stops.ts";

test("a signal stops the work at its next turn, and names the folder of what was measured", async () => {
  const stops = new Stops("mine.stages");
  const steps: string[] = [];
  const work = stops.during(async () => {
    await stops.turn();
    steps.push("before");
    process.emit("SIGINT");
    steps.push("the step that runs");
    await stops.turn();
    steps.push("after");
  });
  await expect(work).rejects.toMatchObject({
    code: "aborted",
    message: expect.stringMatching(/stopped; mine\.stages has what was measured.*\n {2}slimvit/),
  });
  expect(steps).toEqual(["before", "the step that runs"]);
});

test("outside such work, signals end the process as they always do", async () => {
  const stops = new Stops("mine.stages");
  const before = process.listenerCount("SIGINT");
  const within = await stops.during(async () => process.listenerCount("SIGINT"));
  expect([within, process.listenerCount("SIGINT")]).toEqual([before + 1, before]);
  await expect(stops.turn()).resolves.toBeUndefined();
});
