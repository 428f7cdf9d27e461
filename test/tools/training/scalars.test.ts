/** The history as TensorBoard's event file and as a table, against bytes and checksums from outside of this project. */
import { expect, test } from "vitest";
import { scalarsCsv, tensorBoardEvents } from "../../../tools/training/scalars.ts";

/** CRC-32C, one bit of the message after the other, with the polynomial as it is written, and the bits turned at the end. */
function crc32c(bytes: Uint8Array): number {
  const turned = (value: number, width: number) =>
    Number.parseInt([...value.toString(2).padStart(width, "0")].reverse().join(""), 2);
  let register = 0xffffffff;
  for (const byte of bytes) {
    register = (register ^ (turned(byte, 8) << 24)) >>> 0;
    for (let bit = 0; bit < 8; bit++) {
      const carry = register >= 0x80000000;
      register = (register << 1) >>> 0;
      if (carry) register = (register ^ 0x1edc6f41) >>> 0;
    }
  }
  return (turned(register, 32) ^ 0xffffffff) >>> 0;
}

/** TensorFlow's mask: turned right by 15 bits, plus a constant. */
const masked = (crc: number) => Number(((BigInt(crc >>> 15) | (BigInt(crc) << 17n)) + 0xa282ead8n) & 0xffffffffn);

test("the checksum that these tests compute is CRC-32C, by its published check value", () => {
  expect(crc32c(Buffer.from("123456789"))).toBe(0xe3069283);
});

test("an event file begins as TensorFlow's do, and each record has its length, its event and their checksums", () => {
  const file = Buffer.from(tensorBoardEvents([{ step: 300, loss: 0.5, "val.top1": 0.25 }]));
  // A version event of 24 bytes: the first 12 bytes of every file that TensorFlow writes.
  expect(file.subarray(0, 12).toString("hex")).toBe("1800000000000000a37f4b22");
  const events: Buffer[] = [];
  for (let at = 0; at < file.length; ) {
    const length = Number(file.readBigUInt64LE(at));
    expect(file.readUInt32LE(at + 8)).toBe(masked(crc32c(file.subarray(at, at + 8))));
    const event = file.subarray(at + 12, at + 12 + length);
    expect(file.readUInt32LE(at + 12 + length)).toBe(masked(crc32c(event)));
    events.push(event);
    at += 16 + length;
  }
  const hex = (text: string) => Buffer.from(text).toString("hex");
  const time = `09${"00".repeat(8)}`; // field 1, a double
  expect(events.map((event) => event.toString("hex"))).toEqual([
    `${time}1a0d${hex("brain.Event:2")}`,
    // field 2, the step 300; field 5, a summary of two values: each a tag (field 1) and a float (field 2)
    `${time}10ac022a1e0a0b0a04${hex("loss")}150000003f0a0f0a08${hex("val.top1")}150000803e`,
  ]);
});

test("the table has a column for each figure, and an empty cell where a step has none", () => {
  const history: Record<string, number>[] = [
    { step: 0, "val.top1": 0.1 },
    { step: 1, loss: 2 },
    { step: 2, loss: 1, "val.top1": 0 },
  ];
  expect(scalarsCsv(history)).toBe("step,val.top1,loss\n0,0.1,\n1,,2\n2,0,1\n");
});
