/** Lays out the engine's memory: pieces are allocated one after the other, and constants are copied in at the end. */

/** The first free address. Below it are the kernels' own constants; address 0 means "none". */
const FIRST = 1024;

/** Bytes of a cache line, at which every piece begins. */
export const LINE = 64;

export interface Constant {
  at: number;
  data: Int32Array | Float32Array;
}

export class MemoryLayout {
  readonly constants: Constant[] = [];
  /** First byte that nothing has taken. Pieces that are never in use at once may be laid over each other by setting it back. */
  end = FIRST;

  /** @returns the address of that many bytes */
  take(bytes: number): number {
    const at = this.end;
    this.end = toLines(at + bytes);
    return at;
  }

  /** @returns the address of a copy of `data`; what is written into `data` before the copy is made counts */
  put(data: Int32Array | Float32Array): number {
    const at = this.take(data.byteLength);
    this.constants.push({ at, data });
    return at;
  }

  /** Takes room for records of `words` words each. */
  table(words: number, records = 1): WordTable {
    const data = new Int32Array(words * records);
    return new WordTable(this.put(data), data, words);
  }
}

/** A word's place in its record, by its name in layout.ts, and its value. */
export type Word = [word: number, value: number];

/** Records that the kernels read, word by word (layout.ts). */
export class WordTable {
  private readonly floats: Float32Array;

  constructor(
    /** address of the first record */
    readonly at: number,
    private readonly data: Int32Array,
    private readonly words: number,
  ) {
    this.floats = new Float32Array(data.buffer);
  }

  set(words: Word[], record = 0): void {
    for (const [word, value] of words) this.data[record * this.words + word] = value;
  }

  /** Sets words that are f32. */
  setFloats(words: Word[], record = 0): void {
    for (const [word, value] of words) this.floats[record * this.words + word] = value;
  }

  /** Address of a word. */
  address(word: number, record = 0): number {
    return this.at + (record * this.words + word) * 4;
  }
}

export function toLines(bytes: number): number {
  return Math.ceil(bytes / LINE) * LINE;
}
