/** The text of tables and their cells, as spreadsheets of all systems write them. */
import { SlimViTError } from "../../src/errors.ts";

/**
 * The text, with "\n" between lines and without a mark of byte order: UTF-8, or UTF-16 where the mark says so.
 *
 * @throws SlimViTError `bad-input` for other encodings: nothing says which one, and accents would be lost
 */
export function readText(bytes: Buffer, name: string): string {
  const mark = bytes.toString("latin1", 0, 2);
  const encoding = mark === "\xff\xfe" ? "utf-16le" : mark === "\xfe\xff" ? "utf-16be" : "utf-8";
  try {
    return new TextDecoder(encoding, { fatal: true }).decode(bytes).replace(/\r\n?/g, "\n");
  } catch {
    throw new SlimViTError("bad-input", `${name}: is not in UTF-8. Save it as UTF-8, so that accents are certain.`);
  }
}

/**
 * Quoted cells may hold separators, line ends and doubled quotes (RFC 4180).
 *
 * @returns `openQuote`: the line, counted from 1, of a quote that never closes
 */
export function cellsOf(text: string, separator: string): { rows: string[][]; openQuote?: number } {
  const rows: string[][] = [[]];
  let cell = "";
  let openedAt: number | undefined;
  for (let at = 0; at < text.length; at++) {
    const char = text[at];
    if (openedAt !== undefined) {
      if (char !== '"') cell += char;
      else if (text[at + 1] === '"') cell += text[++at];
      else openedAt = undefined;
    } else if (char === '"' && cell.trim() === "") {
      openedAt = at;
      cell = ""; // of spaces before the quote
    } else if (char === separator) {
      rows.at(-1)!.push(cell);
      cell = "";
    } else if (char === "\n") {
      rows.at(-1)!.push(cell);
      rows.push([]);
      cell = "";
    } else cell += char;
  }
  rows.at(-1)!.push(cell);
  return { rows, ...(openedAt !== undefined && { openQuote: text.slice(0, openedAt).split("\n").length }) };
}
