/**
 * Weights of several variants in one file. Each slab is a safetensors file. The first has the smallest variant's
 * tensors. Each further slab has what the next larger variant changes: `NAME.more` has the channels, heads and units
 * that a tensor gains, and `NAME` replaces a tensor of the smaller variant. So the first slabs of a file are a working
 * model.
 */
import { SlimViTError } from "../errors.ts";
import type { Architecture } from "./architecture.ts";
import { type Manifest, tensorShapes } from "./model.ts";
import { emptyLike, growthOf, join, type Nesting, nest, product, take } from "./nesting.ts";
import type { StoredTensor } from "./safetensors.ts";
import { show } from "./show.ts";

/** Tensors as a file stores them. */
export type Stored = Map<string, StoredTensor>;

/** Suffix of the name under which a slab stores the values that a tensor gains. */
export const MORE = ".more";

/** A variant's network and its tensors. */
export interface StoredVariant {
  /** with the variant selected */
  manifest: Manifest;
  stored: Stored;
}

/** @param variants smallest first; one slab is made of each */
export function toSlabs(variants: StoredVariant[]): Stored[] {
  return variants.map(({ manifest, stored }, i) => {
    const before = variants[i - 1];
    if (!before) return stored;
    const slab: Stored = new Map();
    for (const [key, tensor] of stored) addChange(slab, key, tensor, before, manifest);
    const shapes = tensorShapes(manifest, manifest.labels.length);
    for (const [key, { data }] of before.stored) {
      const shape = stored.has(key) ? undefined : shapes.get(key); // zeros, which files leave out
      if (shape) slab.set(key, { ...before.stored.get(key)!, shape, data: emptyLike(data, product(shape)) });
    }
    return slab;
  });
}

function addChange(slab: Stored, key: string, tensor: StoredTensor, before: StoredVariant, manifest: Manifest): void {
  const old = before.stored.get(key);
  if (old && isSame(old, tensor)) return;
  const nesting = old && old.dtype === tensor.dtype ? nestingOf(key, before.manifest, manifest) : undefined;
  const isPart = nesting && isSame(old!, take(tensor, nesting.axis, nesting.kept));
  if (isPart) slab.set(key + MORE, take(tensor, nesting.axis, nesting.added));
  else slab.set(key, tensor);
}

/**
 * The tensors of the variant that some slabs make.
 *
 * @param slabs from the first on, each with the network that it completes
 * @param name how messages call the file
 * @param without tensors that come with their shapes alone
 * @throws SlimViTError `bad-model` for a part that does not belong to what is there
 */
export function fromSlabs(slabs: StoredVariant[], name: string, without?: RegExp): Stored {
  const fail = (fault: string): never => {
    throw new SlimViTError("bad-model", `${name}: ${fault}`);
  };
  const [first, ...further] = slabs;
  const light = (key: string, tensor: StoredTensor) =>
    without?.test(key) ? { ...tensor, data: emptyLike(tensor.data, 0) } : tensor;
  const tensors: Stored = new Map([...first.stored].map(([key, tensor]) => [key, light(key, tensor)]));
  let { manifest } = first;
  for (const [i, slab] of further.entries()) {
    const where = `slab ${i + 2}`;
    for (const [key, tensor] of slab.stored) {
      if (!key.endsWith(MORE)) {
        tensors.set(key, light(key, tensor));
        continue;
      }
      const base = key.slice(0, -MORE.length);
      const old = tensors.get(base);
      if (!old) return fail(`${where} adds to tensor ${show(base)}, which the slabs before it lack.`);
      if (old.dtype !== tensor.dtype)
        fail(`${where} adds ${tensor.dtype} to tensor ${show(base)}, which is ${old.dtype}.`);
      const nesting = nestingOf(base, manifest, slab.manifest);
      if (!nesting) return fail(`${where} adds to tensor ${show(base)}, which does not grow there.`);
      requireShapes(old, tensor, nesting, `${where} adds to tensor ${show(base)}`, fail);
      const shape = old.shape.map((size, axis) => (axis === nesting.axis ? nesting.length : size));
      tensors.set(base, without?.test(base) ? { ...old, shape } : join(old, tensor, nesting));
    }
    manifest = slab.manifest;
  }
  return tensors;
}

function nestingOf(key: string, small: Architecture, large: Architecture): Nesting | undefined {
  const [from, to] = [growthOf(small, key), growthOf(large, key)];
  return from && to && nest(from, to);
}

/** Both parts have the other axes' sizes and their own along the axis that grows. */
function requireShapes(
  old: StoredTensor,
  more: StoredTensor,
  { axis, kept, added }: Nesting,
  what: string,
  fail: (fault: string) => never,
): void {
  const length = (runs: Nesting["kept"]) => runs.reduce((sum, [, count]) => sum + count, 0);
  const shaped = (size: number) => old.shape.map((own, i) => (i === axis ? size : own));
  if (old.shape[axis] !== length(kept)) fail(`${what}, whose shape ${show(old.shape)} is not the smaller variant's.`);
  if (String(more.shape) !== String(shaped(length(added))))
    fail(`${what} a part of shape ${show(more.shape)}; expected ${show(shaped(length(added)))}.`);
}

function isSame(a: StoredTensor, b: StoredTensor): boolean {
  if (a.dtype !== b.dtype || String(a.shape) !== String(b.shape)) return false;
  const [x, y] = [a, b].map(({ data }) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  return x.every((byte, i) => byte === y[i]);
}
