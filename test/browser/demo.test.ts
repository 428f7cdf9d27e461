import { readFileSync } from "node:fs";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { accessibilityFaults, type Demo, drop, expectAnswer, expectBoth, expectVerdict, openDemo } from "./demo.ts";

/** The samples that are of Caltech-101, by its names: what a model of its 101 classes has to say. */
const CALTECH =
  "dalmatian elephant flamingo grand_piano hedgehog laptop llama panda pizza scorpion soccer_ball starfish strawberry umbrella".split(
    " ",
  );
const SLIM_MANIFEST = new URL("../../models/deit-tiny-slim/slimvit.json", import.meta.url);
const sample = (name: string) => readFileSync(new URL(`../../demo/samples/${name}.jpg`, import.meta.url));

describe("the demo on a phone of 360 px", () => {
  let demo: Demo;
  const text = (selector: string) => demo.page.textContent(selector);

  beforeAll(async () => {
    demo = await openDemo({ viewport: { width: 360, height: 740 } });
  });
  afterAll(() => demo?.close());

  test("on arrival the picture, its label, megabytes and milliseconds are on the screen, and only the slim model came", async () => {
    await expectAnswer(demo.page);
    await expectVerdict(demo.page, /giant panda/);
    const seen = [
      "h1",
      ".hero p",
      "#preview",
      "#verdict",
      "#megabytes",
      "#ms",
      "#usual",
      "#camera",
      ".button.primary",
      ".sources .fine",
      ".first .code summary",
    ];
    for (const selector of seen) {
      const { x, y, width, height } = (await demo.page.locator(selector).first().boundingBox())!;
      expect(Math.min(x, y, width - 1, height - 1), selector).toBeGreaterThanOrEqual(0);
      expect(x + width, selector).toBeLessThanOrEqual(360);
      expect(y + height, selector).toBeLessThanOrEqual(740);
    }
    const { weights } = JSON.parse(readFileSync(SLIM_MANIFEST, "utf8")) as {
      weights: { dtype: string; bytes: number }[];
    };
    const int8 = weights.find(({ dtype }) => dtype === "int8")!.bytes;
    expect(await text("#megabytes")).toBe(`${(int8 / 1e6).toFixed(1)} MB`);
    const [shown, onCard] = await demo.page.evaluate(() =>
      ["#ms", ".side.slim .speed"].map((selector) => document.querySelector(selector)!.textContent),
    );
    expect(shown).toBe(onCard);
    const files = await demo.page.evaluate(() => performance.getEntriesByType("resource").map(({ name }) => name));
    expect(files.filter((name) => name.includes("/deit-tiny/")).map((name) => name.split("/").at(-1))).toEqual([
      "slimvit.json",
    ]);
    expect(await demo.page.evaluate(() => scrollY)).toBe(0);
  });

  test("the first sample is answered by both models, with times, MACs and megabytes", async () => {
    await expectBoth(demo.page);
    await expectVerdict(demo.page, /giant panda/);
    for (const side of [".side.slim", ".side.dense"]) {
      expect(await demo.page.locator(`${side} .classes li`).count()).toBe(5);
      expect(await text(`${side} .speed`)).toMatch(/\d ms/);
      expect(await text(`${side} .facts`)).toMatch(/MACs.* [GM].*MB.*M.*simd/);
    }
    expect(await text("#comparison")).toMatch(/× as fast as dense, with \d+ % of the multiply-accumulates/);
    expect(await text("#chosen")).toMatch(/^Auto chose simd on \d threads?, int8 weights: no other/);
  });

  test("nothing is wider than the screen", async () => {
    expect(await demo.page.evaluate(() => document.documentElement.scrollWidth)).toBe(360);
  });

  test.each([
    ["dalmatian", /^dalmatian/],
    ["flamingo", /^flamingo/],
    ["strawberry", /^strawberry/],
    ["chelsea", /^(tabby|Egyptian cat|tiger cat)/],
    ["umbrella", /^umbrella/],
    ["pizza", /^pizza/],
    ["starfish", /^starfish/],
    ["elephant", /^(Indian|African) elephant|^tusker/],
    ["soccer_ball", /^soccer ball/],
    ["hedgehog", /^porcupine/], // ImageNet's "porcupine, hedgehog"
    ["grand_piano", /^grand piano/],
    ["llama", /^llama/],
    ["laptop", /^(laptop|notebook)/],
    ["scorpion", /^scorpion/],
    ["coffee", /^(espresso|cup)/],
    ["panda", /^giant panda/],
  ])("a click on the sample %s gives its label", async (name, label) => {
    await demo.page.click(`[data-sample=${name}]`);
    await expectVerdict(demo.page, label);
    expect(await demo.page.getAttribute(`[data-sample=${name}]`, "aria-pressed")).toBe("true");
  });

  test("axe finds no fault, light and dark", async () => {
    expect(await accessibilityFaults(demo.page)).toEqual([]);
    await demo.page.click("#theme");
    expect(await demo.page.getAttribute("#theme", "aria-pressed")).toBe("true");
    expect(await demo.page.evaluate(() => document.documentElement.style.colorScheme)).toBe("dark");
    expect(await accessibilityFaults(demo.page)).toEqual([]);
    await demo.page.click("#theme");
  });

  test("a file that is no picture is explained, dropped or chosen, and the page goes on", async () => {
    await drop(demo.page, Buffer.from("%PDF-1.4"), "paper.pdf", "application/pdf");
    await expect
      .poll(() => text("#picture-error"))
      .toBe(await ownFault(demo.page, "%PDF-1.4", "paper.pdf", "application/pdf"));
    expect(await demo.page.isVisible("#preview")).toBe(false);
    await drop(demo.page, sample("panda"), "bear.jpg", "image/jpeg");
    await expectVerdict(demo.page, /giant panda/);
    expect(await demo.page.getAttribute("#preview", "alt")).toBe("bear.jpg");
    expect(await text("#picture-error")).toBe("");
    await demo.page.setInputFiles("#file", { name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("no") });
    await expect.poll(() => text("#picture-error")).toBe(await ownFault(demo.page, "no", "notes.txt", "text/plain"));
    await demo.page.setInputFiles("#file", { name: "dog.jpg", mimeType: "image/jpeg", buffer: sample("dalmatian") });
    await expectVerdict(demo.page, /dalmatian/);
  });

  test("a picture is pasted", async () => {
    const base64 = sample("pizza").toString("base64");
    await demo.page.evaluate(async (base64) => {
      const blob = await (await fetch(`data:image/jpeg;base64,${base64}`)).blob();
      const clipboardData = new DataTransfer();
      clipboardData.items.add(new File([blob], "pasted.jpg", { type: "image/jpeg" }));
      document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
    }, base64);
    await expectVerdict(demo.page, /pizza/);
  });

  test("a picture is opened by its address; an address that cannot be read is explained", async () => {
    await demo.page.fill("#address", `${demo.url}samples/llama.jpg`);
    await demo.page.press("#address", "Enter");
    await expectVerdict(demo.page, /llama/);
    await demo.page.fill("#address", "http://127.0.0.1:9/picture.jpg");
    await demo.page.click("#address-form button");
    await expect.poll(() => text("#picture-error")).toMatch(/cannot be read from here.*Save the picture/);
    await demo.page.fill("#address", `${demo.url}samples/none.jpg`);
    await demo.page.click("#address-form button");
    await expect.poll(() => text("#picture-error")).toMatch(/answered 404/);
    await demo.page.click("[data-sample=panda]");
    await expectVerdict(demo.page, /giant panda/);
  });

  test("the slider goes through the blocks: fewer patches, the table follows, the picture fades", async () => {
    const left = async () => Number((await text("#depth-words"))!.match(/works on (\d+) of/)![1]);
    const ink = () => demo.page.evaluate(() => (document.querySelector("#patches") as HTMLCanvasElement).toDataURL());
    await demo.page.locator("#patches").scrollIntoViewIfNeeded(); // it is drawn where it can be seen
    await demo.page.locator("#depth").fill("1");
    await demo.page.waitForTimeout(400); // the fade
    const [first, firstInk] = [await left(), await ink()];
    await demo.page.focus("#depth");
    await demo.page.keyboard.press("End");
    await demo.page.waitForTimeout(400);
    expect(await left()).toBeLessThan(first);
    expect(await ink()).not.toBe(firstInk);
    expect(await demo.page.getAttribute("#depth", "aria-valuetext")).toMatch(/^Block 12 of 12/);
    expect(await text("#blocks .current th")).toBe("12");
    await demo.page.click("#blocks tbody tr:nth-child(7)");
    expect(await text("#depth-value")).toBe("7");
  });

  test("attention of the class token and milliseconds of each block are shown", async () => {
    await demo.page.locator("#patches").scrollIntoViewIfNeeded();
    await expect.poll(() => text("#blocks tbody tr:last-child td:last-child"), { timeout: 60_000 }).toMatch(/^\d/);
    const patches = await demo.page.evaluate(() =>
      (document.querySelector("#patches") as HTMLCanvasElement).toDataURL(),
    );
    await demo.page.check("#overlay [value=attention]", { force: true });
    await demo.page.waitForTimeout(400);
    expect(await demo.page.getAttribute("#patches", "aria-label")).toMatch(/class token looks in block 7/);
    expect(
      await demo.page.evaluate(() => (document.querySelector("#patches") as HTMLCanvasElement).toDataURL()),
    ).not.toBe(patches);
    await demo.page.check("#overlay [value=patches]", { force: true });
  });

  test("play goes to the last block and stops there", async () => {
    await demo.page.locator("#depth").fill("10");
    await demo.page.click("#play");
    await expect.poll(() => text("#depth-value"), { timeout: 10_000 }).toBe("12");
    await expect.poll(() => demo.page.getAttribute("#play", "aria-label")).toMatch(/^Play/);
  });

  test("the dense model goes and comes back", async () => {
    await demo.page.uncheck("#compare");
    await expect.poll(() => text("#comparison")).toBe("");
    expect(await demo.page.isVisible(".side.dense")).toBe(false);
    await demo.page.check("#compare");
    await expectBoth(demo.page);
  });

  test("weights and threads are chosen; what does not work here is not, and says why", async () => {
    const select = (group: string, value: string) => demo.page.check(`#${group} [value="${value}"]`, { force: true });
    await select("threads", "1");
    await expect.poll(() => text(".side.slim .facts"), { timeout: 60_000 }).toMatch(/1 thread/);
    await select("dtype", "f16");
    await expect.poll(() => text(".side.slim .facts"), { timeout: 60_000 }).toMatch(/f16/);
    await expectBoth(demo.page);
    await expectVerdict(demo.page, /giant panda/);
    for (const value of ["onnx-webgpu", "tfjs-webgpu"])
      expect(await demo.page.isDisabled(`#engine [value=${value}]`)).toBe(true);
    expect(await text("#reasons")).toMatch(/onnx-webgpu.*(no WebGPU|no graphics device)/);
    await select("dtype", "int8");
    await expect.poll(() => text(".side.slim .facts"), { timeout: 60_000 }).toMatch(/int8/);
    await expectBoth(demo.page);
  });

  test("another engine answers the same, and says what it cannot tell", async () => {
    await demo.page.check("#engine [value=onnx-wasm]", { force: true });
    await expect.poll(() => text(".side.dense .facts"), { timeout: 120_000 }).toMatch(/onnx-wasm/);
    await expectBoth(demo.page);
    await expectVerdict(demo.page, /giant panda/);
    await demo.page.locator("#patches").scrollIntoViewIfNeeded();
    await expect.poll(() => text("#insight-note"), { timeout: 60_000 }).toMatch(/onnx-wasm tells neither/);
    expect(await text("#chosen")).toMatch(/^Running onnx-wasm/);
    await demo.page.check("#engine [value=auto]", { force: true });
    await expectBoth(demo.page);
  });

  test("every model of the list answers", async () => {
    const count = await demo.page.locator("#model option").count();
    expect(count).toBeGreaterThan(0);
    for (let i = 0; i < count; i++) {
      await demo.page.selectOption("#model", String(i));
      await expect.poll(() => demo.page.locator(".side.slim .classes li").count(), { timeout: 60_000 }).toBe(5);
      await expectVerdict(demo.page, /panda/);
      if (!/classes101/.test((await text(".side.slim .facts"))!)) continue;
      const wrong: string[] = [];
      for (const name of CALTECH) {
        await demo.page.click(`[data-sample=${name}]`);
        const right = new RegExp(`^${name.replaceAll("_", " ")}`);
        await expectVerdict(demo.page, right).catch(async () => void wrong.push(`${name}: ${await text("#verdict")}`));
      }
      expect(wrong.slice(2), wrong.join("; ")).toEqual([]); // two slips of fifteen
      await demo.page.click("[data-sample=panda]");
    }
    await demo.page.selectOption("#model", "0");
    await expectBoth(demo.page);
  });

  test("the console stayed clean", () => {
    // What the browser itself says of the pictures and addresses above that are none.
    expect(demo.complaints.filter((line) => !/blob:|ERR_|status of 404|CORS policy/.test(line))).toEqual([]);
  });
});

/** What the package itself says of a file. */
function ownFault(page: Page, content: string, name: string, type: string): Promise<string> {
  return page.evaluate(
    async ([content, name, type]) => {
      const own = await (Function("return import('slimvit')")() as Promise<{ SlimViT: typeof globalThis.SlimViT }>);
      const vit = await own.SlimViT.load("models/deit-tiny-slim/", { dtype: "int8", engine: "simd" });
      const fault = await vit.classify(new File([content], name, { type })).catch(({ message }: Error) => message);
      vit.dispose();
      return fault;
    },
    [content, name, type],
  );
}

test("labels with underscores, as data sets' folders have them, are shown as words", async () => {
  const demo = await openDemo({ url: "about:blank" });
  try {
    await demo.page.context().route("**/slimvit.json", async (route) => {
      const response = await route.fetch();
      const manifest = await response.json();
      for (const entry of manifest.labels) entry.label = entry.label.replaceAll(" ", "_");
      await route.fulfill({ response, json: manifest });
    });
    await demo.page.goto(demo.served);
    await expectBoth(demo.page);
    await expectVerdict(demo.page, /^giant panda/);
    expect(await demo.page.textContent(".side.slim .classes li")).toMatch(/^giant panda/);
    expect(await demo.page.textContent(".side.slim .facts")).toMatch(/classes1000/);
  } finally {
    await demo.close();
  }
});

test("a page without isolation works, on a desktop, dark; threads say why they are one", async () => {
  const demo = await openDemo({ isolated: false, viewport: { width: 1280, height: 800 }, colorScheme: "dark" });
  try {
    await expectBoth(demo.page);
    await expectVerdict(demo.page, /giant panda/);
    expect(await demo.page.evaluate(() => crossOriginIsolated)).toBe(false);
    expect(await demo.page.textContent("#reasons")).toMatch(
      /2, 4, 8 threads this page is served without isolation headers/,
    );
    expect(await accessibilityFaults(demo.page)).toEqual([]);
    expect(demo.complaints).toEqual([]);
  } finally {
    await demo.close();
  }
});
