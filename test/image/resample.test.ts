import fc from "fast-check";
import { expect, test } from "vitest";
import { INTERPOLATIONS } from "../../src/format/model.ts";
import { preprocess, type RawImage, type Region, type Resample, resample } from "../../src/image/resample.ts";
import { openResampler } from "../../src/image/resampleWasm.ts";
import { random } from "../../tools/shared/random.ts";

function noise(width: number, height: number, seed: number): RawImage {
  const next = random(seed);
  // Half of the bytes at the ends of their range, where bicubic overshoot has to be clipped.
  const data = Uint8ClampedArray.from({ length: width * height * 4 }, () => 512 * next() - 128);
  return { data, width, height };
}

const part = (size: number) =>
  fc
    .integer({ min: 1, max: size })
    .chain((length) => fc.integer({ min: 0, max: size - length }).map((at) => ({ at, length })));

const cases = fc
  .record({
    width: fc.integer({ min: 1, max: 150 }),
    height: fc.integer({ min: 1, max: 150 }),
    to: fc.record({ width: fc.integer({ min: 1, max: 90 }), height: fc.integer({ min: 1, max: 90 }) }),
    interpolation: fc.constantFrom(...INTERPOLATIONS),
    seed: fc.nat(),
  })
  .chain((c) =>
    fc
      .tuple(fc.constant(c), part(c.width), part(c.height), part(c.to.width), part(c.to.height))
      .map(([c, x, y, u, v]) => ({
        ...c,
        source: { x: x.at, y: y.at, width: x.length, height: y.length } satisfies Region,
        window: { x: u.at, y: v.at, width: u.length, height: v.length } satisfies Region,
      })),
  );

test("WebAssembly resamples any part of any picture to the plain form's bytes", async () => {
  const fast = await openResampler();
  expect(fast).not.toBe(resample);
  fc.assert(
    fc.property(cases, ({ width, height, to, interpolation, seed, source, window }) => {
      const image = noise(width, height, seed);
      const run = (form: Resample) => Buffer.from(form(image, source, to, interpolation, window));
      return run(fast).equals(run(resample));
    }),
    { numRuns: 300 },
  );
});

test("so it does with thousands of taps, bands of one row, and a window that is no whole vector", async () => {
  const fast = await openResampler();
  for (const [width, height, to] of [
    [70_000, 3, { width: 7, height: 2 }],
    [3, 9000, { width: 9, height: 5 }],
    [1400, 1100, { width: 326, height: 256 }],
  ] as const) {
    const image = noise(width, height, width);
    const all = { x: 0, y: 0, width, height };
    const window = { x: 1, y: 1, width: to.width - 2, height: to.height - 1 };
    for (const interpolation of ["bicubic", "bilinear"] as const) {
      const [a, b] = [fast, resample].map((form) => Buffer.from(form(image, all, to, interpolation, window)));
      expect(a.equals(b), `${width}×${height}`).toBe(true);
    }
  }
});

test("preprocess gives the same numbers through either", async () => {
  const image = noise(301, 203, 1);
  const how = { resize: 64, crop: [56, 48] as [number, number], interpolation: "bicubic" as const };
  const settings = {
    ...how,
    mean: [0.5, 0.4, 0.3] as [number, number, number],
    std: [0.2, 0.3, 0.25] as [number, number, number],
  };
  const region = { x: 11, y: 7, width: 250, height: 190 };
  expect(preprocess(image, settings, region, await openResampler())).toEqual(preprocess(image, settings, region));
});
