/** What the demo's page says, held by meaning: whose label it is, what its ratios are of, which frame and which page win. */
import { readFileSync } from "node:fs";
import type { Page } from "playwright-core";
import { expect, test } from "vitest";
import { type Demo, type DemoOptions, expectBoth, openDemo } from "./demo.ts";

async function withDemo(work: (demo: Demo) => Promise<void>, options: DemoOptions = {}): Promise<void> {
  const demo = await openDemo({ url: "about:blank", ...options });
  try {
    await work(demo);
  } finally {
    await demo.close();
  }
}

interface Entry {
  folder: string;
  dense?: string;
}

/** Each model's labels begin with its own role, so that a label says whose it is. */
async function markLabels(demo: Demo): Promise<void> {
  const list = JSON.parse(readFileSync(new URL("../../models/index.json", import.meta.url), "utf8")) as Entry[];
  const baselines = new Set(list.map(({ dense }) => dense));
  await demo.page.context().route("**/slimvit.json", async (route) => {
    const response = await route.fetch();
    const manifest = await response.json();
    const role = baselines.has(route.request().url().split("/").at(-2)) ? "dense" : "slim";
    for (const entry of manifest.labels) entry.label = `${role} ${entry.label}`;
    await route.fulfill({ response, json: manifest });
  });
}

interface Shown {
  verdict: string;
  sure: string;
  comparison: string;
  sides: Record<
    "slim" | "dense",
    { classes: string[]; shares: string[]; speed: string; facts: Record<string, string> }
  >;
}

const shown = (page: Page): Promise<Shown> =>
  page.evaluate(() => {
    const text = (selector: string, root: ParentNode = document) => root.querySelector(selector)?.textContent ?? "";
    const all = (selector: string, root: ParentNode) => [...root.querySelectorAll(selector)].map((n) => n.textContent!);
    const side = (role: string) => {
      const root = document.querySelector(`.side.${role}`)!;
      return {
        classes: all(".classes li span:first-child", root),
        shares: all(".classes li .share", root),
        speed: text(".speed", root),
        facts: Object.fromEntries(
          [...root.querySelectorAll(".facts div")].map((row) => [text("dt", row), text("dd", row)]),
        ),
      };
    };
    return {
      ...{ verdict: text("#verdict"), sure: text("#sure"), comparison: text("#comparison") },
      sides: { slim: side("slim"), dense: side("dense") },
    };
  });

/** The page once its repeated runs on a still picture are over. */
async function atRest(page: Page): Promise<Shown> {
  let [before, now] = ["", ""];
  await expect
    .poll(
      async () => {
        [before, now] = [now, JSON.stringify(await shown(page))];
        return now === before && /× as fast/.test(now);
      },
      { timeout: 120_000, interval: 1500 },
    )
    .toBe(true);
  return JSON.parse(now);
}

/** What the models themselves say of a sample, asked for through the package alone, on what the page says that it runs. */
function ownAnswers(page: Page, { sides }: Shown, folders: string[], sample: string) {
  const models = folders.map((folder, k) => {
    const { weights, engine } = sides[k ? "dense" : "slim"].facts;
    const [, name, threads] = engine.match(/^([\w-]+), (\d+) thread/)!;
    return { folder, options: { dtype: weights, engine: name, threads: Number(threads) } };
  });
  return page.evaluate(
    async ({ models, sample }) => {
      const own = await (Function("return import('slimvit')")() as Promise<{ SlimViT: typeof globalThis.SlimViT }>);
      const picture = await (await fetch(`samples/${sample}.jpg`)).blob();
      const answers: { label: string; score: number }[][] = [];
      for (const { folder, options } of models) {
        const vit = await own.SlimViT.load(`models/${folder}/`, options);
        answers.push((await vit.classify(picture)).classes);
        vit.dispose();
      }
      return answers;
    },
    { models, sample },
  );
}

test("headline and lists are each model's own answer, and the ratios are those of the numbers beside them", () =>
  withDemo(async (demo) => {
    await markLabels(demo);
    const { page } = demo;
    await page.goto(demo.served);
    await expectBoth(page);
    const list = JSON.parse(readFileSync(new URL("../../models/index.json", import.meta.url), "utf8")) as Entry[];
    const slim = list.find(({ dense }) => dense)!;
    for (const sample of ["panda", "chelsea"]) {
      await page.click(`[data-sample=${sample}]`);
      await expect.poll(() => page.getAttribute(`[data-sample=${sample}]`, "aria-pressed")).toBe("true");
      const said = await atRest(page);
      const { verdict, sure, comparison, sides } = said;
      const own = await ownAnswers(page, said, [slim.folder, slim.dense!], sample);

      expect(verdict).toMatch(/^slim /);
      expect(verdict).toBe(own[0][0].label);
      expect(sure).toBe(`${(100 * own[0][0].score).toFixed(0)} %`);
      expect(sides.slim.classes).toEqual(own[0].map(({ label }) => label));
      expect(sides.dense.classes).toEqual(own[1].map(({ label }) => label));
      for (const [k, role] of (["slim", "dense"] as const).entries())
        expect(sides[role].shares).toEqual(own[k].map(({ score }) => `${(100 * score).toFixed(1)} %`));

      const isSame = own[0][0].label.slice("slim ".length) === own[1][0].label.slice("dense ".length);
      expect(comparison).toContain(isSame ? "Both models agree." : `The dense model says ${own[1][0].label}.`);
      const [, ratio, macs, bytes] = comparison.match(
        /^([\d.]+) × as fast as dense, with (\d+) % of the multiply-accumulates and (\d+) % of the download/,
      )!;
      const ms = (role: "slim" | "dense") => Number(sides[role].speed.match(/([\d.]+) ms/)![1]);
      const rounding = (value: number) => (value < 9.95 ? 0.05 : 0.5);
      const [low, high] = [-1, 1].map(
        (sign) =>
          (ms("dense") + sign * rounding(ms("dense"))) / (ms("slim") - sign * rounding(ms("slim"))) + sign * 0.005,
      );
      expect(Number(ratio)).toBeGreaterThanOrEqual(low - 1e-9);
      expect(Number(ratio)).toBeLessThanOrEqual(high + 1e-9);
      const share = (key: string) => (100 * amount(sides.slim.facts[key])) / amount(sides.dense.facts[key]);
      expect(Math.abs(Number(macs) - share("MACs"))).toBeLessThan(1);
      expect(Math.abs(Number(bytes) - share("download"))).toBeLessThan(1.5);
      expect(share("MACs")).toBeLessThan(100);
    }
  }));

/** "1.25 G" → 1.25e9 */
function amount(text: string): number {
  const [, value, unit] = text.match(/^([\d.]+) (G|M)/)!;
  return Number(value) * (unit === "G" ? 1e9 : 1e6);
}

test("in front of the camera the newest frame is answered: what has left the picture is not said for long", () =>
  withDemo(
    async ({ page, served }) => {
      await page.goto(served);
      await expectBoth(page);
      await page.evaluate(() => (globalThis as unknown as Scene).show("panda"));
      await page.click("#camera");
      await expect.poll(() => page.textContent("#rate"), { timeout: 60_000 }).toMatch(/frames\/s$/);
      await page.waitForTimeout(3000); // some 90 frames, of which few are answered
      const seen = await page.evaluate(async () => {
        const { show } = globalThis as unknown as Scene;
        const list = document.querySelector(".side.slim .classes")!;
        const answers: string[] = [];
        const observer = new MutationObserver(() => answers.push(list.querySelector("span")!.textContent!));
        observer.observe(list, { subtree: true, childList: true, characterData: true, attributes: true });
        await show("dalmatian");
        const end = performance.now() + 60_000;
        while (!answers.some((label) => /dalmatian/.test(label)) && performance.now() < end)
          await new Promise((resolve) => setTimeout(resolve, 20));
        observer.disconnect();
        return answers;
      });
      expect(seen.at(-1)).toMatch(/dalmatian/);
      // The answer under way and one of a frame that was taken as the picture changed.
      expect(seen.filter((label) => !/dalmatian/.test(label)).length).toBeLessThanOrEqual(3);
    },
    { before: asCamera },
  ));

interface Scene {
  show(sample: string): Promise<void>;
}

/** In the page: a camera at 30 frames a second that sees one of the samples. */
function asCamera(): void {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [320, 240];
  const context = canvas.getContext("2d")!;
  let picture: ImageBitmap | undefined;
  setInterval(() => {
    if (picture) context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    context.fillRect(Math.random() * 2, 0, 1, 1); // so that every frame is a new one
  }, 33);
  const show = async (sample: string) => {
    picture = await createImageBitmap(await (await fetch(`samples/${sample}.jpg`)).blob());
  };
  Object.assign(globalThis, { show });
  Object.defineProperty(navigator.mediaDevices, "getUserMedia", { value: async () => canvas.captureStream(30) });
}

test("with a network the newest page wins; without one the last page that was seen online is shown", () =>
  withDemo(async ({ page, served, server }) => {
    let version = 1;
    const [serve] = server.listeners("request") as ((request: unknown, response: unknown) => void)[];
    server.removeAllListeners("request");
    const index = readFileSync(new URL("../../demo/index.html", import.meta.url), "utf8");
    server.on("request", (request, response) => {
      if (request.url !== "/") return serve(request, response);
      response.setHeader("Content-Type", "text/html");
      response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
      response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
      response.end(index.replace(/<title>/, `$&Version ${version}: `));
    });
    const offline = () => page.waitForSelector("#offline:not([hidden])", { timeout: 60_000 });
    await page.goto(served);
    expect(await page.title()).toMatch(/^Version 1/);
    await expectBoth(page);
    await offline();
    expect(await page.evaluate(() => navigator.serviceWorker.controller !== null)).toBe(true);

    version = 2;
    await page.reload();
    expect(await page.title()).toMatch(/^Version 2/);
    await expectBoth(page);
    version = 3;
    await page.reload();
    expect(await page.title()).toMatch(/^Version 3/);
    await expectBoth(page);

    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    await page.reload();
    expect(await page.title()).toMatch(/^Version 3/);
    await expectBoth(page);
  }));
