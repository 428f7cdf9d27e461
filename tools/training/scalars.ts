/** The history of a training in the forms that other tools read: JSON, CSV, and TensorBoard's event files. */

type History = Record<string, number>[];

/** Files to lie beside a model, by name. */
export const historyFiles = (history: History): Record<string, string | Uint8Array> => ({
  "history.json": `${JSON.stringify(history)}\n`,
  "scalars.csv": scalarsCsv(history),
  "events.out.tfevents.0.slimvit": tensorBoardEvents(history),
});

/**
 * A table with one column for each scalar, in the order of first appearance. A cell is empty where a step has no value.
 */
export function scalarsCsv(history: History): string {
  const names = [...new Set(["step", ...history.flatMap((line) => Object.keys(line))])];
  const lines = history.map((line) => names.map((name) => line[name] ?? "").join(","));
  return `${[names.join(","), ...lines].join("\n")}\n`;
}

/**
 * Records of `Event` messages, each with its length and masked CRCs. Times are 0: a training that was cut off and resumed gives
 * the same bytes as one that was not.
 *
 * @see https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto
 */
export function tensorBoardEvents(history: History): Uint8Array {
  const wallTime = [...tag(1, FIXED64), ...float64(0)];
  const version = [...wallTime, ...bytesField(3, utf8("brain.Event:2"))];
  const events = history.map(({ step, ...scalars }) => {
    const values = Object.entries(scalars).map(([name, value]) => {
      const scalar = [...bytesField(1, utf8(name)), ...tag(2, FIXED32), ...float32(value)];
      return bytesField(1, scalar);
    });
    return [...wallTime, ...tag(2, VARINT), ...varint(step), ...bytesField(5, values.flat())];
  });
  return Buffer.concat([version, ...events].map((event) => record(Uint8Array.from(event))));
}

/** Wire types of protocol buffers. */
const [VARINT, FIXED64, BYTES, FIXED32] = [0, 1, 2, 5];

const tag = (field: number, wireType: number) => [(field << 3) | wireType];
const bytesField = (field: number, bytes: number[]) => [...tag(field, BYTES), ...varint(bytes.length), ...bytes];
const utf8 = (text: string) => [...Buffer.from(text)];

function varint(value: number): number[] {
  const bytes: number[] = [];
  for (let left = value; ; left = Math.floor(left / 128)) {
    if (left < 128) return [...bytes, left];
    bytes.push((left % 128) | 128);
  }
}

function float64(value: number): number[] {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  return [...bytes];
}

function float32(value: number): number[] {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return [...bytes];
}

function record(event: Uint8Array): Buffer {
  const length = Buffer.alloc(12);
  length.writeBigUInt64LE(BigInt(event.length));
  length.writeUInt32LE(maskedCrc32c(length.subarray(0, 8)), 8);
  const crc = Buffer.alloc(4);
  crc.writeUInt32LE(maskedCrc32c(event));
  return Buffer.concat([length, event, crc]);
}

/** Castagnoli's polynomial, bits reversed. */
const POLYNOMIAL = 0x82f63b78;

function maskedCrc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
  }
  const value = (crc ^ 0xffffffff) >>> 0;
  return (((value >>> 15) | (value << 17)) + 0xa282ead8) >>> 0;
}
