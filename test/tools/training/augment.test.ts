/** RandAugment's operations against timm and Pillow, and how often and how strongly they are drawn; random erasing. */
import { afterEach, describe, expect, test } from "vitest";
import { random } from "../../../tools/shared/random.ts";
import { AUGMENTATIONS, eraseRandom, randAugment } from "../../../tools/training/augment.ts";
import { augmentNumbers } from "../../fixtures/oracle/numbers.ts";

const { width, height, fill, picture, cases } = augmentNumbers();
const bytes = (base64: string) => new Uint8Array(Buffer.from(base64, "base64"));
const image = { data: bytes(picture), width, height };

/** Of 255: Pillow rounds the mean that contrast is around, and equalizes in steps of 2 of this picture's 560 pixels. */
const TOLERANCE: Record<string, number> = { contrast: 2, color: 2, equalize: 24 };

test("every operation of timm's is there, and no other", () => {
  expect(Object.keys(AUGMENTATIONS).sort()).toEqual([...new Set(cases.map(({ name }) => name))].sort());
});

test.each(cases.map((c) => [c.name, c.magnitude, c] as const))("%s of magnitude %d is timm's", (name, magnitude, c) => {
  const both = [0, 0.9].map((draw) => AUGMENTATIONS[name](image, magnitude / 10, () => draw, fill).data);
  const ours = c.pixels.length === 1 ? both.slice(0, 1) : both;
  // Which of the two signs a draw means does not matter, as long as each comes from one half of the draws.
  const fits = (pixels: Uint8Array[]) => pixels.every((one, k) => differs(one, bytes(c.pixels[k]), c.inside?.[k]) <= 1);
  const differs = (a: Uint8Array, b: Uint8Array, inside?: string) => {
    const mask = inside && bytes(inside);
    expect(!mask || mask.filter(Boolean).length > mask.length / 4).toBe(true);
    const worst = a.reduce(
      (max, v, k) => (mask && !mask[Math.floor(k / 3)] ? max : Math.max(max, Math.abs(v - b[k]))),
      0,
    );
    return worst / (TOLERANCE[name] ?? 1.5);
  };
  if (!fits(ours) && !fits(ours.toReversed())) {
    const worst = [ours, ours.toReversed()].map((pixels) =>
      pixels.map((one, k) => differs(one, bytes(c.pixels[k]), c.inside?.[k])),
    );
    throw new Error(`${name}: off by ${JSON.stringify(worst)} of its tolerance`);
  }
});

test("equalize gives each value the share of pixels below it", () => {
  const { data } = AUGMENTATIONS.equalize(image, 0, () => 0, fill);
  for (let c = 0; c < 3; c++) {
    const channel = image.data.filter((_, k) => k % 3 === c);
    const brightest = channel.reduce((a, b) => Math.max(a, b));
    const total = channel.filter((v) => v !== brightest).length;
    channel.forEach((v, k) => {
      const below = channel.filter((other) => other < v).length;
      expect(Math.abs(data[3 * k + c] - (255 * below) / total)).toBeLessThanOrEqual(0.51);
    });
  }
});

describe("randAugment", () => {
  const original = { ...AUGMENTATIONS };
  afterEach(() => void Object.assign(AUGMENTATIONS, original));

  test("takes none, one or two operations of a picture, each alike often, around the magnitude", () => {
    const taken: string[] = [];
    const levels: number[] = [];
    for (const name of Object.keys(AUGMENTATIONS))
      AUGMENTATIONS[name] = (image, level) => {
        taken.push(name);
        levels.push(level);
        return image;
      };
    const pictures = 3000;
    const counts = [0, 0, 0];
    for (let k = 0; k < pictures; k++) {
      const before = taken.length;
      randAugment(image, 7, random(k), fill);
      counts[taken.length - before]++;
    }
    // Binomial of two draws at one half.
    [0.25, 0.5, 0.25].forEach((share, n) => {
      expect(Math.abs(counts[n] - share * pictures)).toBeLessThan(4 * Math.sqrt(pictures * share * (1 - share)));
    });
    const kinds = Object.keys(original);
    for (const name of kinds) {
      const n = taken.filter((one) => one === name).length;
      expect(Math.abs(n - taken.length / kinds.length)).toBeLessThan(5 * Math.sqrt(taken.length / kinds.length));
    }
    const mean = levels.reduce((a, b) => a + b) / levels.length;
    const deviation = Math.sqrt(levels.reduce((a, b) => a + (b - 0.7) ** 2, 0) / levels.length);
    expect(mean).toBeCloseTo(0.7, 2);
    expect(deviation).toBeGreaterThan(0.046); // timm's mstd0.5, of 10
    expect(deviation).toBeLessThan(0.054);
    expect(Math.max(...levels)).toBeLessThanOrEqual(1);
  });

  test("applies them one after the other", () => {
    const names = Object.keys(AUGMENTATIONS);
    const order: string[] = [];
    for (const name of names)
      AUGMENTATIONS[name] = (before) => {
        order.push(name);
        return { ...before, data: before.data.map((v, k) => (k === order.length - 1 ? names.indexOf(name) : v)) };
      };
    for (let k = 0; k < 50; k++) {
      order.length = 0;
      const { data } = randAugment(image, 9, random(k), fill);
      order.forEach((name, n) => void expect(data[n]).toBe(names.indexOf(name)));
      expect(data.subarray(2)).toEqual(image.data.subarray(2));
    }
  });
});

describe("random erasing", () => {
  const [h, w] = [48, 64];
  const draws = Array.from({ length: 1500 }, (_, k) => {
    const pixels = new Float32Array(3 * h * w).fill(9);
    eraseRandom(pixels, h, w, 0.4, random(k));
    return pixels;
  });
  const boxes = draws.flatMap((pixels) => {
    const changed = [...pixels.keys()].filter((i) => pixels[i] !== 9);
    if (!changed.length) return [];
    const rows = changed.map((i) => Math.floor(i / w) % h);
    const columns = changed.map((i) => i % w);
    const [top, left] = [rows, columns].map((values) => values.reduce((a, b) => Math.min(a, b)));
    const [bottom, right] = [rows, columns].map((values) => values.reduce((a, b) => Math.max(a, b)));
    const size = [bottom - top + 1, right - left + 1];
    return [{ top, left, height: size[0], width: size[1], changed, pixels }];
  });

  test("takes as many pictures as asked, and of each one rectangle in all three channels", () => {
    expect(Math.abs(boxes.length - 600)).toBeLessThan(4 * Math.sqrt(1500 * 0.4 * 0.6));
    for (const { height, width, changed } of boxes) expect(changed).toHaveLength(3 * height * width);
  });

  test("takes a fiftieth to a third of the area, tall and wide alike, at places all over", () => {
    const shares = boxes.map(({ height, width }) => (height * width) / (h * w));
    expect(Math.min(...shares)).toBeGreaterThan(0.015);
    expect(Math.min(...shares)).toBeLessThan(0.04);
    expect(Math.max(...shares)).toBeLessThan(0.36);
    expect(Math.max(...shares)).toBeGreaterThan(0.28);
    const tall = boxes.filter(({ height, width }) => height > width).length;
    expect(tall / boxes.length).toBeGreaterThan(0.35);
    expect(tall / boxes.length).toBeLessThan(0.6);
    for (const { height, width } of boxes)
      expect(Math.abs(Math.log(height / width))).toBeLessThan(Math.log(1 / 0.3) + 0.2);
    const mean = (of: (box: (typeof boxes)[0]) => number) => boxes.reduce((a, box) => a + of(box), 0) / boxes.length;
    expect(mean(({ top, height }) => (top + height / 2) / h)).toBeCloseTo(0.5, 1);
    expect(mean(({ left, width }) => (left + width / 2) / w)).toBeCloseTo(0.5, 1);
  });

  test("fills it with noise of mean 0 and deviation 1", () => {
    const noise = boxes.flatMap(({ changed, pixels }) => changed.slice(0, 200).map((i) => pixels[i]));
    const mean = noise.reduce((a, b) => a + b) / noise.length;
    const deviation = Math.sqrt(noise.reduce((a, b) => a + b * b, 0) / noise.length);
    expect(Math.abs(mean)).toBeLessThan(0.02);
    expect(Math.abs(deviation - 1)).toBeLessThan(0.02);
  });
});
