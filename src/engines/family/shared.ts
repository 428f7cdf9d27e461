/** Whether several variants can run on one copy of their weights, as in engine `simd`. */
import type { BlockShape, Model, Tensor, Tensors } from "../../format/model.ts";
import type { SharedFamily } from "../engine.ts";

/** Linears, whose weights the engine packs. */
const WEIGHT = /(qkv|proj|fc1|fc2|head|head_dist|projection|attn_pool\.v)\.weight$/;

/**
 * @returns undefined where a variant needs weights of its own: widths that are not multiples of 8, so that a panel
 * would have to be shared; gated MLPs; weights that were trained for that variant alone
 */
export function sharedFamily({ family, manifest }: Model): SharedFamily | undefined {
  if (!family || family.names.length < 2 || manifest.mlp === "swiglu") return undefined;
  if ([...family.replaced].some((key) => WEIGHT.test(key) || key.endsWith(".scale"))) return undefined;
  const models = family.names.map((name) => family.model(name, WEIGHT)).sort((a, b) => slabsOf(a) - slabsOf(b));
  const widest = models[models.length - 1].manifest;
  if (!models.every(({ manifest: { blocks } }) => isPart(blocks, widest.blocks))) return undefined;
  const largest = family.model(widest.variant);
  const copies = new Map<Tensor["data"], Tensor["data"]>();
  const light = models.map((model) => ({ ...model, tensors: copied(model.tensors, copies) }));
  return { models: new Map(light.map((model) => [model.manifest.variant, model])), largest };
}

const slabsOf = ({ manifest: { variants, variant } }: Model) =>
  variants.find(({ name }) => name === variant)?.slabs ?? 1;

/** Whether the larger blocks' panels hold the smaller ones' as a whole. */
function isPart(small: BlockShape[], large: BlockShape[]): boolean {
  const isAligned = (width: number, whole = -1) => width === whole || (width % 8 === 0 && width < whole);
  return (
    small.length === large.length &&
    small.every(
      ({ headDims, mlpHidden }, i) =>
        headDims.every((width, h) => isAligned(width, large[i].headDims[h])) &&
        isAligned(mlpHidden, large[i].mlpHidden),
    )
  );
}

/**
 * Copies a tensor, because a view would keep the whole file in memory. Variants whose tensor is the same view share a
 * copy.
 */
function copied(tensors: Tensors, copies: Map<Tensor["data"], Tensor["data"]>): Tensors {
  return new Map(
    [...tensors].map(([key, tensor]) => {
      const data = copies.get(tensor.data) ?? tensor.data.slice();
      copies.set(tensor.data, data);
      return [key, { ...tensor, data }];
    }),
  );
}
