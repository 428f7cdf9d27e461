import { afterAll, beforeAll, expect, test } from "vitest";
import { imageSize } from "../../src/image/imageSize.ts";
import { openStage, type Stage } from "../browser/page.ts";
import { type HostilePicture, hostilePictures } from "./pictures.ts";
import { Tally } from "./tally.ts";

let stage: Stage;
let pictures: HostilePicture[];
beforeAll(async () => {
  pictures = await hostilePictures();
  stage = await openStage();
});
afterAll(() => stage?.close());

/** Above it, something was decoded that should have been refused unread. */
const REFUSED_WITHIN_MS = 5000;

test("hostile pictures are classified or refused with bad-input, the large ones undecoded, and the next one works", async () => {
  const tally = new Tally("pictures", "hostile pictures in Chromium");
  const outcomes = await stage.page.evaluate(
    async (files) => {
      const vit = await load({ engine: "simd", dtype: "f32" });
      const before = (await vit.classify(picture())).classes[0].score;
      const out = [];
      for (const base64 of files) {
        const blob = await (await fetch(`data:application/octet-stream;base64,${base64}`)).blob();
        const start = performance.now();
        const error = await failure(vit.classify(blob));
        out.push({ ...error, ms: performance.now() - start });
      }
      const isSame = (await vit.classify(picture())).classes[0].score === before;
      vit.dispose();
      return { out, isSame };
    },
    pictures.map(({ bytes }) => Buffer.from(bytes).toString("base64")),
  );
  pictures.forEach((picture, i) => void tally.add(harmOf(picture, outcomes.out[i])));
  tally.add(outcomes.isSame ? "" : "the picture after them has another answer");
  tally.close();
});

function harmOf(
  { name, expected, fault }: HostilePicture,
  got: { code: string; message: string; ours: boolean; ms: number },
) {
  const said = `${name}: ${got.code} ${got.message}`;
  if (got.code === "none") return expected === "refused" ? said : "";
  if (expected === "drawn" || got.code !== "bad-input" || !got.ours) return said;
  if (fault && !fault.test(got.message)) return said;
  return fault && got.ms > REFUSED_WITHIN_MS ? `${name}: refused after ${got.ms} ms` : "";
}

test("an SVG file is drawn or refused on the page, runs no script and fetches nothing", async () => {
  const tally = new Tally("pictures", "hostile SVG files on the page");
  const requests: string[] = [];
  const note = (request: { url(): string }) => void (/leak/.test(request.url()) && requests.push(request.url()));
  stage.page.on("request", note);
  const entities = Array.from({ length: 9 }, (_, k) => `<!ENTITY e${k + 1} "${`&e${k};`.repeat(10)}">`).join("");
  const bodies: [name: string, expected: string, size: string, body: string, doctype?: string][] = [
    ["a drawing", "none", "width='99' height='99'", "<rect width='9' height='9'/>"],
    ["a script", "none", "width='99' height='99'", "<script>top.harmed = true; fetch('/leak')</script>"],
    ["a handler", "none", "width='99' height='99' onload='top.harmed = true'", "<rect onbegin='top.harmed = true'/>"],
    ["a picture elsewhere", "none", "width='99' height='99'", "<image href='/leak.png' width='9' height='9'/>"],
    [
      "a page inside, whose pixels the browser keeps",
      "bad-input",
      "width='99' height='99'",
      "<foreignObject width='9' height='9'><iframe xmlns='http://www.w3.org/1999/xhtml' src='/leak'/></foreignObject>",
    ],
    [
      "entities of entities",
      "bad-input",
      "width='99' height='99'",
      "<text>&e9;</text>",
      `<!DOCTYPE svg [<!ENTITY e0 "harm">${entities}]>`,
    ],
    ["too long", "bad-input", "width='1' height='100000'", "<rect width='9' height='9'/>"],
    ["no end", "bad-input", "width='99' height='99'", "<g>"],
  ];
  const got = await stage.page.evaluate(
    async (files) => {
      const vit = await load({ engine: "simd", dtype: "f32" });
      const out = [];
      for (const text of files) out.push(await failure(vit.classify(new Blob([text], { type: "image/svg+xml" }))));
      vit.dispose();
      return { out, isHarmed: "harmed" in globalThis };
    },
    bodies.map(
      ([, , size, body, doctype = ""]) => `${doctype}<svg xmlns="http://www.w3.org/2000/svg" ${size}>${body}</svg>`,
    ),
  );
  stage.page.off("request", note);
  bodies.forEach(([name, expected], i) => {
    const { code, message, ours } = got.out[i];
    tally.add(code === expected && (ours || code === "none") ? "" : `${name}: ${code} ${message}`);
  });
  tally.add(got.isHarmed ? "a script ran" : "");
  tally.add(requests.join(" "));
  tally.close();
});

test("an <img> of too many pixels is refused as well", async () => {
  const error = await stage.page.evaluate(async () => {
    const image = new Image();
    image.src = `data:image/svg+xml,${encodeURIComponent('<svg xmlns="http://www.w3.org/2000/svg" width="9000" height="9000"/>')}`;
    await new Promise((resolve) => image.addEventListener("load", resolve));
    const vit = await load({ engine: "simd" });
    const error = await failure(vit.classify(image));
    vit.dispose();
    return error;
  });
  expect(error).toMatchObject({ code: "bad-input", ours: true });
  expect(error.message).toMatch(/^The image is 9000×9000; expected 1 to 67108864 pixels/);
});

test("the size that is read is the one that is drawn", () => {
  const sizes = pictures
    .filter(({ name }) => /^(PNG|JPEG|WebP|lossless WebP|GIF|AVIF)$/.test(name))
    .map(({ bytes }) => imageSize(bytes));
  expect(sizes).toEqual(Array(6).fill([48, 40]));
});

test("reading the size of any cut of any picture ends, with a size or without", () => {
  const tally = new Tally("pictures", "sizes read from cut pictures");
  for (const { bytes } of pictures) {
    for (let length = 0; length < Math.min(bytes.length, 200); length++) {
      const size = imageSize(bytes.subarray(0, length));
      tally.add(size?.some(Number.isNaN) ? `cut at ${length}: ${size}` : "");
    }
  }
  tally.close();
});
