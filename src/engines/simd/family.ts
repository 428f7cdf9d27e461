/**
 * Several variants over one copy of their weights. The largest variant's panels are packed in an order in which the panels of
 * each smaller one come first: of q, k and v, those of the smallest variant's channels, then those that the next one adds. What
 * a variant has of its own, from biases to activations, is laid out anew behind the weights when it is to run.
 */
import type { BlockShape, Model, Tensor, Tensors } from "../../format/model.ts";
import { differs, type Place, type WeightsArea } from "./area.ts";
import type { Flavour } from "./binary.ts";
import { channelBytes, LinearPlanner } from "./linears.ts";
import { MemoryLayout } from "./memoryLayout.ts";
import { padded } from "./padding.ts";
import { planFirst, planLinears } from "./plan.ts";

/** Variants that can share their weights, smallest first, without their weights' numbers but for the largest. */
export interface SharedFamily {
  models: Map<string, Model>;
  largest: Model;
}

/** What is packed. */
const WEIGHT = /(qkv|proj|fc1|fc2|head|head_dist|projection|attn_pool\.v)\.weight$/;

/**
 * @returns undefined where a variant needs weights of its own: widths that are no multiples of 8, which a panel would have to
 * share; gated MLPs; weights that were trained for it alone
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

/** A view would hold the whole file. Variants whose tensor is the same view share a copy. */
function copied(tensors: Tensors, copies: Map<Tensor["data"], Tensor["data"]>): Tensors {
  return new Map(
    [...tensors].map(([key, tensor]) => {
      const data = copies.get(tensor.data) ?? tensor.data.slice();
      copies.set(tensor.data, data);
      return [key, { ...tensor, data }];
    }),
  );
}

/** Lays out the weights of all variants, behind what every plan begins with. */
export function planArea({ models, largest }: SharedFamily, flavour: Flavour): WeightsArea {
  const all = [...models.values()];
  const memory = new MemoryLayout();
  planFirst(largest.manifest, memory);
  const wholeHeads = largest.manifest.blocks.map(({ headDims }) => headDims);
  const widths = largest.manifest.blocks.map((_, i) => all.map(({ manifest }) => manifest.blocks[i].headDims));
  const planner = new LinearPlanner(largest, flavour, new MemoryLayout());
  planLinears(largest, planner, new MemoryLayout());
  const places = new Map<string, Place>();
  for (const { key, kind, panels, panelBytes } of planner.linears) {
    const [, block] = key.match(/^blocks\.(\d+)\.attn\.proj$/) ?? [];
    const at = memory.take(panels * panelBytes);
    const narrower =
      block === undefined ? [] : widths[Number(block)].filter((heads) => differs(heads, wholeHeads[Number(block)]));
    const most = Math.max(0, ...narrower.map((heads) => padded(heads) * channelBytes(kind)));
    places.set(key, { at, panelBytes, gathered: most && memory.take(panels * most) });
  }
  return { places, widths, wholeHeads, end: memory.end };
}
