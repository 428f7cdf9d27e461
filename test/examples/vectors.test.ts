/** The index of examples/search against the plain way. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { VectorIndex } from "../../examples/search/vectors.js";
import { randomValues } from "../helpers.ts";

function cosine(a: Float32Array, b: Float32Array): number {
  const dot = (x: Float32Array, y: Float32Array) => x.reduce((sum, v, i) => sum + v * y[i], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

test("finds what sorting all cosines finds, at any length and count", () => {
  const sizes = fc.record({
    dim: fc.integer({ min: 1, max: 23 }),
    size: fc.integer({ min: 1, max: 200 }),
    count: fc.integer({ min: 1, max: 30 }),
    seed: fc.nat(1e6),
  });
  fc.assert(
    fc.property(sizes, ({ dim, size, count, seed }) => {
      const vectors = Array.from({ length: size }, (_, i) => randomValues(dim, seed + i).map((v) => v * (1 + (i % 5))));
      const index = new VectorIndex(dim);
      vectors.forEach((vector, i) => void index.add(String(i), vector));
      const query = randomValues(dim, seed + 5000);
      const all = vectors.map((vector) => cosine(vector, query)).sort((a, b) => b - a);
      const found = index.search(query, count);
      expect(found).toHaveLength(Math.min(count, size));
      found.forEach(({ key, similarity }, rank) => {
        expect(similarity).toBeCloseTo(all[rank], 5);
        expect(similarity).toBeCloseTo(cosine(vectors[Number(key)], query), 5);
      });
      expect(new Set(found.map(({ key }) => key)).size).toBe(found.length);
    }),
  );
});

test("a key's second vector replaces its first", () => {
  const index = new VectorIndex(2);
  index.add("a", [1, 0]);
  index.add("b", [0, 1]);
  index.add("a", [0, -3]);
  expect([index.size, index.has("a"), index.has("c")]).toEqual([2, true, false]);
  expect(index.search([0, 2], 2)).toEqual([
    { key: "b", similarity: 1 },
    { key: "a", similarity: -1 },
  ]);
});

test.each<[string, number[], RegExp]>([
  ["of another length", [1, 2, 3], /has 3 numbers; expected 2/],
  ["of zeros", [0, 0], /no direction/],
  ["with NaN", [1, Number.NaN], /no direction/],
])("a vector %s is refused", (_, vector, message) => {
  const index = new VectorIndex(2);
  expect(() => index.add("a", vector)).toThrow(message);
  expect(index.size).toBe(0);
  expect(() => index.search(vector)).toThrow(message);
});
