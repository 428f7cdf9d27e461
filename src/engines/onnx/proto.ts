/**
 * The part of protobuf's wire format that an ONNX file needs. A message is a list of pieces, large ones by reference, so
 * that the weights of a network are copied only once, into the file.
 * @see https://protobuf.dev/programming-guides/encoding/
 */
export class Message {
  private readonly pieces: Uint8Array[] = [];
  private length = 0;

  /** int32, int64, enum; not negative */
  int(field: number, value: number): this {
    return this.tag(field, 0).varint(value);
  }

  float(field: number, value: number): this {
    return this.tag(field, 5).append(new Uint8Array(Float32Array.of(value).buffer));
  }

  string(field: number, value: string): this {
    return this.bytes(field, new TextEncoder().encode(value));
  }

  /** The bytes must not change before `finish()`. */
  bytes(field: number, value: Uint8Array): this {
    return this.tag(field, 2).varint(value.length).append(value);
  }

  message(field: number, value: Message): this {
    this.tag(field, 2).varint(value.length);
    for (const piece of value.pieces) this.append(piece);
    return this;
  }

  finish(): Uint8Array {
    const out = new Uint8Array(this.length);
    let at = 0;
    for (const piece of this.pieces) {
      out.set(piece, at);
      at += piece.length;
    }
    return out;
  }

  private tag(field: number, wireType: 0 | 2 | 5): this {
    return this.varint(field * 8 + wireType);
  }

  /** Seven bits a byte, least first; by division, for lengths beyond 31 bits. */
  private varint(value: number): this {
    const bytes: number[] = [];
    let rest = value;
    for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
    return this.append(Uint8Array.from([...bytes, rest]));
  }

  private append(piece: Uint8Array): this {
    this.pieces.push(piece);
    this.length += piece.length;
    return this;
  }
}
