/**
 * The safetensors container: u64 header length, JSON header, bytes. A file may be hostile, so every field of the header
 * is checked before it is used.
 * @see https://github.com/huggingface/safetensors#format
 */
import { messageOf, SlimViTError } from "../errors.ts";
import { show } from "./show.ts";

export type StoredArray =
  | Float32Array
  | Float64Array
  | Uint16Array
  | Int8Array
  | Uint8Array
  | Int16Array
  | Int32Array
  | BigInt64Array;

export interface StoredTensor {
  dtype: StoredDtype;
  shape: number[];
  /** a view into the file where alignment allows it, else a copy; F16 and BF16 as raw bits */
  data: StoredArray;
}

const DTYPES = {
  F64: Float64Array,
  F32: Float32Array,
  F16: Uint16Array,
  BF16: Uint16Array,
  I64: BigInt64Array,
  I32: Int32Array,
  I16: Int16Array,
  I8: Int8Array,
  U8: Uint8Array,
  BOOL: Uint8Array,
} as const;

export type StoredDtype = keyof typeof DTYPES;

/** The specification allows 100 MB, of which JSON.parse can make gigabytes; a network of 1,000 blocks needs 2 MB. */
export const MAX_HEADER_BYTES = 2.5 * 2 ** 20;

/**
 * @param file the whole file; tensors are views of it where they can be
 * @param name how messages call the file
 * @throws SlimViTError `bad-model`
 */
export function readSafetensors(file: Uint8Array, name: string): Map<string, StoredTensor> {
  const fail = (fault: string): never => {
    throw new SlimViTError("bad-model", `${name}: ${fault}`);
  };
  if (file.length < 8) fail(`is ${file.length} bytes long, too short for a safetensors file.`);
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const headerBytes = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32;
  if (headerBytes > MAX_HEADER_BYTES) {
    fail(`claims a header of ${headerBytes} bytes; it is no safetensors file (the limit is ${MAX_HEADER_BYTES}).`);
  }
  if (8 + headerBytes > file.length) {
    fail(`is cut off inside its header (${headerBytes} bytes claimed, ${file.length - 8} there).`);
  }
  const header = parseHeader(file.subarray(8, 8 + headerBytes), fail);
  const body = file.subarray(8 + headerBytes);

  const entries: Entry[] = [];
  for (const [key, entry] of Object.entries(header)) {
    if (key !== "__metadata__") entries.push(checkEntry(key, entry, body.length, fail));
  }

  // Sorted, the tensors must tile the body exactly: no overlap, no hole, no trailing bytes.
  const sorted = [...entries].sort((a, b) => a.begin - b.begin || a.end - b.end);
  let covered = 0;
  for (const { key, begin, end } of sorted) {
    if (begin < covered) fail(`tensor ${show(key)} overlaps the one before it (byte ${begin} of the data).`);
    if (begin > covered) fail(`has a hole of ${begin - covered} bytes before tensor ${show(key)}.`);
    covered = end;
  }
  if (covered !== body.length) fail(`has ${body.length - covered} bytes after its last tensor.`);

  // Only now, as tensors that overlap could ask for many times the file.
  return new Map(
    entries.map(({ key, dtype, shape, begin, end }) => [key, { dtype, shape, data: viewOf(body, dtype, begin, end) }]),
  );
}

function parseHeader(bytes: Uint8Array, fail: (fault: string) => never): Record<string, unknown> {
  if (bytes[0] !== 0x7b) fail("has no JSON header; it is no safetensors file.");
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return fail("has a header that is not UTF-8.");
  }
  let header: unknown;
  try {
    header = JSON.parse(text);
  } catch (error) {
    return fail(`has a header that is not JSON (${messageOf(error)}).`);
  }
  if (typeof header !== "object" || header === null || Array.isArray(header)) fail("has a header that is no object.");
  const repeated = repeatedKey(text);
  if (repeated !== undefined) fail(`has ${show(repeated)} twice in its header.`);
  return header as Record<string, unknown>;
}

/**
 * Refuses equal keys. JSON.parse keeps the last of them, so such a file can show different tensors to different
 * readers.
 */
function repeatedKey(json: string): string | undefined {
  const objects: Set<string>[] = [];
  for (const [token] of json.matchAll(/"[^"\\]*(?:\\.[^"\\]*)*"\s*:?|[{}]/g)) {
    if (token === "{") objects.push(new Set());
    else if (token === "}") objects.pop();
    else if (token.endsWith(":")) {
      const key = JSON.parse(token.slice(0, -1)) as string; // two spellings of one key are equal
      const seen = objects[objects.length - 1];
      if (seen.has(key)) return key;
      seen.add(key);
    }
  }
  return undefined;
}

interface Entry {
  key: string;
  dtype: StoredDtype;
  shape: number[];
  begin: number;
  end: number;
}

function checkEntry(key: string, entry: unknown, bodyBytes: number, fail: (fault: string) => never): Entry {
  const tensor = `tensor ${show(key)}`;
  if (typeof entry !== "object" || entry === null) fail(`${tensor} has no description.`);
  const { dtype, shape, data_offsets: offsets } = entry as Record<string, unknown>;
  if (typeof dtype !== "string" || !Object.hasOwn(DTYPES, dtype)) {
    fail(`${tensor} has dtype ${show(dtype)}; known are ${Object.keys(DTYPES).join(", ")}.`);
  }
  if (!isSizes(shape)) fail(`${tensor} has shape ${show(shape)}; a shape is a list of whole numbers ≥ 0.`);
  if (!isSizes(offsets) || offsets.length !== 2) {
    fail(`${tensor} has data_offsets ${show(offsets)}; expected two whole numbers.`);
  }
  const [begin, end] = offsets as number[];
  if (begin > end) fail(`${tensor} ends (${end}) before it begins (${begin}).`);
  if (end > bodyBytes) fail(`is cut off: ${tensor} ends at byte ${end} of the data, ${bodyBytes} are there.`);
  let bytes: number = DTYPES[dtype as StoredDtype].BYTES_PER_ELEMENT;
  for (const size of shape as number[]) {
    bytes *= size;
    if (!Number.isSafeInteger(bytes)) fail(`${tensor} has an impossible shape ${show(shape)}.`);
  }
  if (bytes !== end - begin) {
    fail(`${tensor} (${dtype} ${show(shape)}) needs ${bytes} bytes and has ${end - begin}.`);
  }
  return { key, dtype: dtype as StoredDtype, shape: shape as number[], begin, end };
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

function viewOf(body: Uint8Array, dtype: StoredDtype, begin: number, end: number): StoredArray {
  const Type = DTYPES[dtype];
  const length = (end - begin) / Type.BYTES_PER_ELEMENT;
  const offset = body.byteOffset + begin;
  if (offset % Type.BYTES_PER_ELEMENT === 0) return new Type(body.buffer as ArrayBuffer, offset, length);
  // Not body.slice: a Node Buffer would share its pool there.
  return new Type(new Uint8Array(body.subarray(begin, end)).buffer, 0, length);
}

/** Tensors in map order; the header is padded so that the data starts at a multiple of 8 bytes. */
export function writeSafetensors(
  tensors: Map<string, { dtype: StoredDtype; shape: number[]; data: StoredArray }>,
  metadata?: Record<string, string>,
): Uint8Array {
  const entries: [string, unknown][] = metadata ? [["__metadata__", metadata]] : [];
  // Wide types first, so that every tensor stays aligned to its own element size.
  const ordered = [...tensors].sort(([, a], [, b]) => b.data.BYTES_PER_ELEMENT - a.data.BYTES_PER_ELEMENT);
  let offset = 0;
  for (const [name, { dtype, shape, data }] of ordered) {
    entries.push([name, { dtype, shape, data_offsets: [offset, offset + data.byteLength] }]);
    offset += data.byteLength;
  }
  let json = JSON.stringify(Object.fromEntries(entries));
  let head = new TextEncoder().encode(json);
  json += " ".repeat((8 - (head.length % 8)) % 8);
  head = new TextEncoder().encode(json);
  const file = new Uint8Array(8 + head.length + offset);
  new DataView(file.buffer).setBigUint64(0, BigInt(head.length), true);
  file.set(head, 8);
  let at = 8 + head.length;
  for (const [, { data }] of ordered) {
    file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += data.byteLength;
  }
  return file;
}
