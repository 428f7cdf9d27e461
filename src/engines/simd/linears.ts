/** The addresses of a linear's weights, bias and scales in the engine's memory. */
import type { Model, Tensor } from "../../format/model.ts";
import { isQuantised } from "../../format/quantise.ts";
import { float32 } from "../../format/read.ts";
import { differs, type Place, type WeightsArea } from "./area.ts";
import type { Flavour } from "./binary.ts";
import * as L from "./layout.ts";
import type { MemoryLayout, Word, WordTable } from "./memoryLayout.ts";
import { pad8, padded, type Run, runs, spread, sum } from "./padding.ts";

/** One linear's weights, still to be packed. */
export interface PackedLinear {
  /** of its tensors */
  key: string;
  /** of its LINEAR_ words */
  at: number;
  kind: number;
  weight: Tensor;
  /** the weights are levels of int8, whichever kind runs them */
  hasScale: boolean;
  rows: Run[];
  columns: Run[];
  panels: number;
  to: number;
  panelBytes: number;
}

/** A linear to be laid out. */
export interface LinearRequest {
  /** of its tensors */
  key: string;
  /** widths of its outputs' parts, each of which is padded to 8 */
  outs: number[];
  /** the same of its inputs; a single part is padded at its end alone */
  ins: number[];
  /** Where panels lie in another order than the outputs: for each panel, its number in the outputs' order. */
  order?: number[];
}

/** Panels of a smaller variant that are gathered out of the largest one's. */
export interface Gathering {
  from: number;
  fromBytes: number;
  to: number;
  panelBytes: number;
  panels: number;
  /** bytes of a panel: [offset in the largest one's, offset, count] */
  runs: [from: number, to: number, count: number][];
}

/** A linear whose panels are gathered. */
interface Gathered {
  kind: number;
  panels: number;
  panelBytes: number;
  ins: number[];
}

/** Bytes of a panel that one input channel takes. */
export const channelBytes = (kind: number): number => (kind === L.F32 ? 32 : kind === L.F16 ? 16 : 8);

/** Lays out linears one by one, and keeps what all of them need together. */
export class LinearPlanner {
  readonly linears: PackedLinear[] = [];
  readonly gatherings: Gathering[] = [];
  /** bytes of the longest panel that is widened before use */
  widest = 0;
  /** bytes of the longest weight row */
  longestRow = 0;

  constructor(
    private readonly model: Model,
    private readonly flavour: Flavour,
    private readonly memory: MemoryLayout,
    /** where weights lie that several variants share */
    private readonly area?: WeightsArea,
  ) {}

  /** Bytes of a quantised row of activations. */
  quantisedBytes(inputs: number): number {
    return pad8(inputs) * (this.flavour === "relaxed" ? 1 : 2);
  }

  /** @param word of `table`, where the linear's LINEAR_ words begin */
  plan({ key, outs, ins, order }: LinearRequest, table: WordTable, word: number, record = 0): void {
    const { memory } = this;
    const place = this.area?.places.get(key);
    const inputs = ins.length > 1 ? padded(ins) : (ins[0] ?? 0);
    const panels = padded(outs) / 8;
    const { weight, hasScale } = this.weightOf(key);
    const kind = inputs === 0 || weight.dtype === "F32" ? L.F32 : weight.dtype === "F16" ? L.F16 : L.INT8;
    const deep = this.flavour === "relaxed" ? 4 : 2;
    const steps = kind === L.INT8 ? pad8(inputs) / deep : inputs;
    const isWide = kind === L.F32 || (kind === L.INT8 && this.flavour === "relaxed");
    const ownBytes = steps * (isWide ? 32 : 16);
    if (!isWide) this.widest = Math.max(this.widest, steps * 32);
    this.longestRow = Math.max(this.longestRow, sum(ins) * weight.data.BYTES_PER_ELEMENT);
    const isGathered = place !== undefined && this.gather(place, key, { kind, panels, panelBytes: ownBytes, ins });
    const to = isGathered ? place.gathered : (place?.at ?? memory.take(panels * ownBytes));
    const panelBytes = place && !isGathered ? place.panelBytes : ownBytes;
    const values = (name: string) => {
      const isThere = this.model.tensors.has(`${key}.${name}`); // a projection has no bias
      const laidOut = isThere
        ? spread(float32(this.model.tensors, `${key}.${name}`), outs)
        : new Float32Array(panels * 8);
      return memory.put(order ? inOrder(laidOut, order) : laidOut);
    };
    const words: Word[] = [
      [L.LINEAR_KIND, kind],
      [L.LINEAR_PANELS, panels],
      [L.LINEAR_STEPS, steps],
      [L.LINEAR_INPUTS, inputs],
      [L.LINEAR_WEIGHT, to],
      [L.LINEAR_PANEL_BYTES, panelBytes],
      [L.LINEAR_BIAS, values("bias")],
      [L.LINEAR_SCALE, hasScale ? values("scale") : 0],
      [L.LINEAR_SUM, kind === L.INT8 ? memory.take(panels * 36) : 0],
    ];
    table.set(
      words.map(([own, value]) => [word + own, value]),
      record,
    );
    if (!panels || !inputs) return;
    const at = table.address(word, record);
    const rows = order ? rowsInOrder(outs, order) : runs(outs);
    this.linears.push({ key, at, kind, weight, hasScale, rows, columns: runs(ins), panels, to, panelBytes });
  }

  /**
   * Gathers columns. Only `proj` of a variant with fewer channels needs it, because they lie apart in the largest
   * variant's panels.
   */
  private gather(place: Place, key: string, own: Gathered): boolean {
    const [, block] = key.match(/^blocks\.(\d+)\.attn\.proj$/) ?? [];
    const heads = this.area!.wholeHeads[Number(block)];
    if (block === undefined || !differs(heads, own.ins)) return false;
    const { kind, panels, panelBytes, ins } = own;
    const unit = channelBytes(kind);
    const runs = ins.map((width, h): [number, number, number] => {
      const [from, to] = [heads, ins].map((all) => padded(all.slice(0, h)) * unit);
      return [from, to, Math.min(pad8(width) * unit, panelBytes - to)]; // a single head is not padded
    });
    if (panelBytes)
      this.gatherings.push({
        from: place.at,
        fromBytes: place.panelBytes,
        to: place.gathered,
        panelBytes,
        panels,
        runs,
      });
    return true;
  }

  /** Levels of int8 that are not to run as int8 become floats, still to be multiplied by their scales. */
  private weightOf(key: string): { weight: Tensor; hasScale: boolean } {
    const weight = this.model.tensors.get(`${key}.weight`)!;
    const hasScale = weight.dtype === "I8";
    if (!hasScale || isQuantised(`${key}.weight`)) return { weight, hasScale };
    return { weight: { dtype: "F32", shape: weight.shape, data: new Float32Array(weight.data) }, hasScale };
  }
}

/** Values in panels of 8, in another order of panels. */
function inOrder(values: Float32Array, order: number[]): Float32Array {
  const out = new Float32Array(order.length * 8);
  order.forEach((panel, k) => void out.set(values.subarray(panel * 8, panel * 8 + 8), k * 8));
  return out;
}

/** The places of a tensor's rows when its panels lie in another order. */
function rowsInOrder(outs: number[], order: number[]): Run[] {
  const placeOf = new Map(order.map((panel, k) => [panel, k]));
  const found: Run[] = [];
  let [from, panel] = [0, 0];
  for (const count of outs) {
    for (let at = 0; at < count; at += 8, panel++) {
      const run = { from: from + at, to: placeOf.get(panel)! * 8, count: Math.min(8, count - at) };
      const last = found.at(-1);
      if (last && last.from + last.count === run.from && last.to + last.count === run.to) last.count += run.count;
      else found.push(run);
    }
    from += count;
  }
  return found;
}
