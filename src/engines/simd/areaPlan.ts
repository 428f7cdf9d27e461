/**
 * Several variants on one copy of their weights. The panels of the largest variant are packed in an order in which the
 * panels of each smaller one come first: of q, k and v, those of the smallest variant's channels, then those that the
 * next one adds. What belongs to one variant only, from biases to activations, is laid out behind the weights each time
 * it is to run.
 */
import type { SharedFamily } from "../engine.ts";
import { differs, type Place, type WeightsArea } from "./area.ts";
import type { Flavour } from "./binary.ts";
import { channelBytes, LinearPlanner } from "./linears.ts";
import { MemoryLayout } from "./memoryLayout.ts";
import { padded } from "./padding.ts";
import { planFirst, planLinears } from "./plan.ts";

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
