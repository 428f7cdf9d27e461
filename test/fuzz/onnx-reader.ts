/**
 * Reads an ONNX file and throws where it is not whole. Knows nothing of src/engines/onnx, which it checks.
 * @see https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
 */
import { featureDim, type Manifest } from "../../src/format/model.ts";

/** Values by field number: numbers of varints and floats, bytes of everything with a length. */
type Fields = Map<number, (number | Uint8Array)[]>;

function parse(bytes: Uint8Array): Fields {
  const fields: Fields = new Map();
  let at = 0;
  const varint = () => {
    for (let value = 0, shift = 0; ; shift += 7) {
      if (at >= bytes.length || shift > 63) throw new Error("a number does not end");
      value += (bytes[at] & 127) * 2 ** shift;
      if (bytes[at++] < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const [field, wire] = [Math.floor(tag / 8), tag % 8];
    let value: number | Uint8Array;
    if (wire === 0) value = varint();
    else if (wire === 2 || wire === 5) {
      const length = wire === 5 ? 4 : varint();
      if (at + length > bytes.length) throw new Error(`field ${field} ends past its message`);
      value = bytes.subarray(at, (at += length));
    } else throw new Error(`field ${field} has wire type ${wire}`);
    fields.set(field, [...(fields.get(field) ?? []), value]);
  }
  return fields;
}

const messages = (of: Fields, field: number) => ((of.get(field) ?? []) as Uint8Array[]).map(parse);
const numbers = (of: Fields, field: number) => (of.get(field) ?? []) as number[];
const texts = (of: Fields, field: number) =>
  ((of.get(field) ?? []) as Uint8Array[]).map((bytes) => new TextDecoder("utf-8", { fatal: true }).decode(bytes));

/** Bytes an element, by TensorProto.DataType */
const SIZES: Record<number, number> = { 1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 10: 2 };

/**
 * The nodes' operators with the names of their inputs, and the file's metadata.
 */
export function readOnnx(file: Uint8Array): {
  nodes: { op: string; inputs: string[] }[];
  metadata: Map<string, string>;
} {
  const whole = parse(file);
  const nodes = messages(messages(whole, 7)[0], 1).map((node) => ({ op: texts(node, 4)[0], inputs: texts(node, 1) }));
  const entries = messages(whole, 14).map((entry): [string, string] => [texts(entry, 1)[0], texts(entry, 2)[0]]);
  return { nodes, metadata: new Map(entries) };
}

/**
 * Every constant is as long as its shape; names are given once and before they are used, and all are used; inputs and
 * outputs have the network's shapes.
 *
 * @param batch "batch" where it is free
 */
export function checkOnnx(file: Uint8Array, manifest: Manifest, batch: 1 | "batch" = 1): void {
  const { imageSize, labels, blocks, prefixTokens, head } = manifest;
  const graph = messages(parse(file), 7)[0];
  const known = new Set<string>();
  const used = new Set<string>();
  const define = (name: string) => {
    if (known.has(name)) throw new Error(`"${name}" is there twice`);
    known.add(name);
  };
  for (const constant of messages(graph, 5)) {
    const [name] = texts(constant, 8);
    const [raw] = constant.get(9) as Uint8Array[];
    const bytes = numbers(constant, 1).reduce((a, b) => a * b, SIZES[numbers(constant, 2)[0]]);
    if (raw.length !== bytes) throw new Error(`"${name}" has ${raw.length} bytes of ${bytes}`);
    define(name);
  }
  const shapesOf = (field: number) =>
    messages(graph, field).map((value) => {
      const [shape] = messages(messages(messages(value, 2)[0], 1)[0], 2);
      return [...texts(value, 1), ...messages(shape, 1).map((size) => texts(size, 2)[0] ?? numbers(size, 1)[0])].join();
    });
  for (const input of messages(graph, 11)) define(texts(input, 1)[0]);
  for (const node of messages(graph, 1)) {
    for (const name of texts(node, 1)) {
      if (!known.has(name)) throw new Error(`${texts(node, 4)[0]} reads "${name}", which is not there yet`);
      used.add(name);
    }
    for (const name of texts(node, 2)) define(name);
  }
  for (const output of messages(graph, 12)) used.add(texts(output, 1)[0]);
  const idle = [...known].filter((name) => !used.has(name));
  const hasPatches = blocks[0].keepIdx.length > prefixTokens; // else nothing reads the pixels
  if (hasPatches && idle.length) throw new Error(`never used: ${idle}`);
  const shapes = [...shapesOf(11), ...shapesOf(12)].join(" ");
  const logits = head ? ` logits,${batch},${labels.length}` : "";
  const expected = `pixel_values,${batch},3,${imageSize}${logits} features,${batch},${featureDim(manifest)}`;
  if (shapes !== expected) throw new Error(`${shapes}; expected ${expected}`);
}
