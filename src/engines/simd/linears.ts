/** Where a linear's weights, bias and scales lie in the engine's memory. */
import type { Model, Tensor } from "../../format/model.ts";
import { isQuantised } from "../../format/quantise.ts";
import { float32 } from "../../format/read.ts";
import type { Flavour } from "./binary.ts";
import * as L from "./layout.ts";
import type { MemoryLayout, Word, WordTable } from "./memoryLayout.ts";
import { pad8, padded, type Run, runs, spread, sum } from "./padding.ts";

/** One linear's weights, still to be packed. */
export interface PackedLinear {
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
}

/** Lays out linears one by one, and keeps what all of them need together. */
export class LinearPlanner {
  readonly linears: PackedLinear[] = [];
  /** bytes of the longest panel that is widened before use */
  widest = 0;
  /** bytes of the longest weight row */
  longestRow = 0;

  constructor(
    private readonly model: Model,
    private readonly flavour: Flavour,
    private readonly memory: MemoryLayout,
  ) {}

  /** Bytes of a quantised row of activations. */
  quantisedBytes(inputs: number): number {
    return pad8(inputs) * (this.flavour === "relaxed" ? 1 : 2);
  }

  /** @param word of `table`, where the linear's LINEAR_ words begin */
  plan({ key, outs, ins }: LinearRequest, table: WordTable, word: number, record = 0): void {
    const { memory } = this;
    const inputs = ins.length > 1 ? padded(ins) : (ins[0] ?? 0);
    const panels = padded(outs) / 8;
    const { weight, hasScale } = this.weightOf(key);
    const kind = inputs === 0 || weight.dtype === "F32" ? L.F32 : weight.dtype === "F16" ? L.F16 : L.INT8;
    const deep = this.flavour === "relaxed" ? 4 : 2;
    const steps = kind === L.INT8 ? pad8(inputs) / deep : inputs;
    const isWide = kind === L.F32 || (kind === L.INT8 && this.flavour === "relaxed");
    const panelBytes = steps * (isWide ? 32 : 16);
    if (!isWide) this.widest = Math.max(this.widest, steps * 32);
    this.longestRow = Math.max(this.longestRow, sum(ins) * weight.data.BYTES_PER_ELEMENT);
    const to = memory.take(panels * panelBytes);
    const values = (name: string) => {
      const isThere = this.model.tensors.has(`${key}.${name}`); // a projection has no bias
      return memory.put(
        isThere ? spread(float32(this.model.tensors, `${key}.${name}`), outs) : new Float32Array(panels * 8),
      );
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
    this.linears.push({ at, kind, weight, hasScale, rows: runs(outs), columns: runs(ins), panels, to, panelBytes });
  }

  /** Levels of int8 that are not to run as int8 become floats, still to be multiplied by their scales. */
  private weightOf(key: string): { weight: Tensor; hasScale: boolean } {
    const weight = this.model.tensors.get(`${key}.weight`)!;
    const hasScale = weight.dtype === "I8";
    if (!hasScale || isQuantised(`${key}.weight`)) return { weight, hasScale };
    return { weight: { dtype: "F32", shape: weight.shape, data: new Float32Array(weight.data) }, hasScale };
  }
}
