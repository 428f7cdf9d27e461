/** A model from its first call to dispose: calls at once, aborts, workers that die. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { keepWorkers, openStage, type Stage } from "./page.ts";

let stage: Stage;
beforeAll(async () => {
  stage = await openStage();
  await keepWorkers(stage.page);
});
afterAll(() => stage.close());

test("dispose rejects calls in flight, is idempotent, and later calls say disposed", async () => {
  const [flying, later] = await stage.page.evaluate(async () => {
    const vit = await load({ engine: "reference" });
    const flying = failure(vit.classify(picture()));
    await new Promise((resolve) => setTimeout(resolve, 1));
    vit.dispose();
    vit.dispose();
    return [await flying, await failure(vit.classify(picture()))];
  });
  expect(flying).toMatchObject({ code: "disposed", ours: true });
  expect(later).toMatchObject({ code: "disposed", ours: true });
});

test("an abort during classify rejects with aborted, the next call works", async () => {
  const out = await stage.page.evaluate(async () => {
    const vit = await load({ engine: "reference" });
    const controller = new AbortController();
    const aborted = failure(vit.classify(picture(), { signal: controller.signal }));
    controller.abort();
    const error = await aborted;
    const { classes } = await vit.classify(picture());
    vit.dispose();
    return { error, classes: classes.length };
  });
  expect(out.error).toMatchObject({ code: "aborted", ours: true });
  expect(out.classes).toBe(3);
});

test("a worker that dies rejects what is in flight with worker-lost; the next call runs on a fresh one", async () => {
  const out = await stage.page.evaluate(async () => {
    const earlier = workers.length;
    const vit = await load({ engine: "reference" });
    const before = (await vit.classify(picture())).classes[0].score;
    const flying = failure(vit.classify(picture(2000, 2000)));
    await new Promise((resolve) => setTimeout(resolve, 1));
    workers.at(-1)!.terminate(); // fires no event
    const killed = performance.now();
    const error = await flying;
    const rejectedAfterMs = performance.now() - killed;
    const after = (await vit.classify(picture())).classes[0].score;
    vit.dispose();
    return { error, same: before === after, started: workers.length - earlier, rejectedAfterMs };
  });
  expect(out.rejectedAfterMs).toBeLessThan(1000);
  expect(out.error).toMatchObject({ code: "worker-lost", ours: true });
  expect(out.same).toBe(true);
  expect(out.started).toBe(2);
});

test("a worker killed while it loads rejects the load, and the next load works", async () => {
  const out = await stage.page.evaluate(async () => {
    const loading = failure(load({ cache: false, onProgress: () => workers.at(-1)!.terminate() }));
    const error = await loading;
    const vit = await load({ cache: false });
    vit.dispose();
    return error;
  });
  expect(out).toMatchObject({ code: "worker-lost", ours: true });
});

test("many calls at once are answered in order, and one aborted in the queue never runs", async () => {
  const out = await stage.page.evaluate(async () => {
    const vit = await load({ engine: "reference" });
    const controller = new AbortController();
    const done: (number | string)[] = [];
    const calls = [0, 1, 2, 3, 4].map((k) =>
      vit
        .classify(picture(30 + k, 40), k === 3 ? { signal: controller.signal } : {})
        .then(() => done.push(k))
        .catch((error: { code: string }) => done.push(`${k} ${error.code}`)),
    );
    controller.abort();
    await Promise.all(calls);
    vit.dispose();
    return done;
  });
  expect(out).toEqual(["3 aborted", 0, 1, 2, 4]);
});

test("two models at once keep apart", async () => {
  const scores = await stage.page.evaluate(async () => {
    const [a, b] = await Promise.all([load({ dtype: "f32" }), load({ dtype: "int8" })]);
    const runs = await Promise.all([
      a.classify(picture()),
      b.classify(picture()),
      a.classify(picture()),
      b.classify(picture()),
    ]);
    a.dispose();
    b.dispose();
    return runs.map((run) => run.classes[0].score);
  });
  expect(scores[0]).toBe(scores[2]);
  expect(scores[1]).toBe(scores[3]);
  expect(scores[0]).not.toBe(scores[1]);
});
