/** Copies a model's tensors into the engine's memory and packs them there. */
import { F32, INT8 } from "./layout.ts";
import type { PackedLinear } from "./linears.ts";
import type { Cargo } from "./plan.ts";

export interface Packer {
  pack(
    kind: number,
    from: number,
    rowBytes: number,
    panels: number,
    to: number,
    panelBytes: number,
    inputs: number,
  ): void;
  scaleWeights(linear: number): void;
  sumWeights(linear: number): void;
}

/** Copies constants into memory, among them those that a thread reads when it starts. */
export function loadConstants({ constants }: Cargo, memory: WebAssembly.Memory): void {
  const bytes = new Uint8Array(memory.buffer);
  for (const { at, data } of constants) bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
}

export function packWeights({ linears, staging }: Cargo, memory: WebAssembly.Memory, packer: Packer): void {
  const bytes = new Uint8Array(memory.buffer);
  for (const linear of linears) packLinear(linear, staging, bytes, packer);
}

/** Rearranges packed weights where they differ from variant to variant. */
export function arrange({ linears, gatherings }: Cargo, memory: WebAssembly.Memory, packer: Packer): void {
  const bytes = new Uint8Array(memory.buffer);
  for (const { from, fromBytes, to, panelBytes, panels, runs } of gatherings)
    for (let panel = 0; panel < panels; panel++)
      for (const [start, place, count] of runs) {
        const source = from + panel * fromBytes + start;
        bytes.copyWithin(to + panel * panelBytes + place, source, source + count);
      }
  for (const { kind, at } of linears) if (kind === INT8) packer.sumWeights(at);
}

/** Through the staging area, as many whole panels at a time as it has room for. */
function packLinear(linear: PackedLinear, staging: Cargo["staging"], bytes: Uint8Array, packer: Packer): void {
  const { at, kind, weight, hasScale, rows, columns, panels, to, panelBytes } = linear;
  const { data } = weight;
  const source = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const size = data.BYTES_PER_ELEMENT;
  const rowBytes = data.byteLength / weight.shape[0];
  const atOnce = Math.floor(staging.bytes / (8 * rowBytes));
  for (let panel = 0; panel < panels; panel += atOnce) {
    const count = Math.min(atOnce, panels - panel);
    const first = panel * 8;
    const last = first + count * 8;
    if (!covers(rows, first, last)) bytes.fill(0, staging.at, staging.at + count * 8 * rowBytes);
    for (const run of rows) {
      const start = Math.max(first, run.to);
      const end = Math.min(last, run.to + run.count);
      if (start >= end) continue;
      const from = run.from + start - run.to;
      bytes.set(
        source.subarray(from * rowBytes, (from + end - start) * rowBytes),
        staging.at + (start - first) * rowBytes,
      );
    }
    for (const run of columns) {
      // A column's place in a panel is the panel's bytes an input; runs start at multiples of 8, so int8 groups hold.
      const offset = run.to * 8 * (kind === F32 ? 4 : kind === INT8 ? 1 : 2);
      packer.pack(
        kind,
        staging.at + run.from * size,
        rowBytes,
        count,
        to + panel * panelBytes + offset,
        panelBytes,
        run.count,
      );
    }
  }
  if (kind === INT8) packer.sumWeights(at);
  else if (hasScale) packer.scaleWeights(at);
}

function covers(rows: PackedLinear["rows"], first: number, last: number): boolean {
  return rows.some(({ to, count }) => to <= first && to + count >= last);
}
