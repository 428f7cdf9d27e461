/** The files of a zip, read one by one. */
import yauzl from "yauzl";
import { SlimViTError } from "../../src/errors.ts";
import { cleanPath, type Entry, MAX_PICTURE_BYTES } from "./entries.ts";

/** Pictures are compressed already: a large entry that inflates by more is a bomb, and a batch holds many at once. */
const MAX_INFLATION = 100;
const INFLATION_FREE_BYTES = 2 ** 20;

/** @throws SlimViTError `bad-input` for a file that is no zip, or a broken one */
export async function listZip(file: string): Promise<Entry[]> {
  // The descriptor stays open for the process's life: pictures are read again every epoch.
  const zip = await new Promise<yauzl.ZipFile>((resolve, reject) => {
    yauzl.open(file, { lazyEntries: true, autoClose: false, decodeStrings: false }, (error, zip) => {
      if (error)
        reject(
          new SlimViTError(
            "bad-input",
            `${file}: is neither a folder, a .tar, a .csv nor a .tsv, and no readable zip (${error.message}).`,
          ),
        );
      else resolve(zip);
    });
  });
  const broken = (why: string) => new SlimViTError("bad-input", `${file}: is a broken zip (${why}).`);
  const entries = new Map<string, Entry>(); // of an entry that was added again, the last one counts
  await new Promise<void>((resolve, reject) => {
    zip.on("entry", (entry: yauzl.Entry) => {
      const name = entryName(entry).replaceAll("\\", "/").normalize("NFC");
      const fault = yauzl.validateFileName(name);
      if (fault !== null) return reject(broken(fault));
      const refusal = refusalOf(entry);
      if (refusal) return reject(new SlimViTError("bad-input", `${file}: ${refusal.replace("NAME", () => name)}`));
      const path = cleanPath(name);
      if (name.endsWith("/")) entries.set(path, { path });
      else entries.set(path, { path, read: () => readEntry(zip, entry) });
      zip.readEntry();
    });
    zip.on("end", resolve);
    zip.on("error", (error: Error) => reject(broken(error.message)));
    zip.readEntry();
  });
  return [...entries.values()];
}

/** Why an entry cannot be read, if so. NAME stands for its name. */
function refusalOf({ generalPurposeBitFlag, compressionMethod }: yauzl.Entry): string | undefined {
  if (generalPurposeBitFlag & ENCRYPTED)
    return "is encrypted (NAME). Unpack it with its password, and give the folder.";
  if (METHODS.includes(compressionMethod)) return undefined;
  return `is compressed by a method that is not read here (NAME: method ${compressionMethod}, not deflate). Unpack it, and give the folder.`;
}

/** Stored, deflated. */
const METHODS = [0, 8];
/** Bits of the general-purpose flags: the content is encrypted, the name is UTF-8. */
const ENCRYPTED = 1;
const UTF8 = 0x800;
/** Info-ZIP's extra field with the name in UTF-8. */
const UNICODE_PATH = 0x7075;

/**
 * The name as whoever made the zip meant it. By the specification it is code page 437 unless a flag or an extra field says
 * UTF-8; macOS writes UTF-8 without either. A name with letters outside of ASCII is hardly ever valid UTF-8 by chance.
 */
function entryName({ fileNameRaw, generalPurposeBitFlag, extraFields }: yauzl.Entry): string {
  const isSaid = generalPurposeBitFlag & UTF8 || extraFields.some(({ id }) => id === UNICODE_PATH);
  try {
    if (!isSaid) return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(fileNameRaw);
  } catch {
    // It is code page 437.
  }
  return yauzl.getFileNameLowLevel(generalPurposeBitFlag, fileNameRaw, extraFields, true);
}

function readEntry(zip: yauzl.ZipFile, entry: yauzl.Entry): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const { uncompressedSize, compressedSize } = entry;
    const limit = Math.min(MAX_PICTURE_BYTES, Math.max(INFLATION_FREE_BYTES, MAX_INFLATION * compressedSize));
    if (uncompressedSize > limit) return reject(new Error(`${compressedSize} bytes inflate to ${uncompressedSize}`));
    zip.openReadStream(entry, (error, stream) => {
      if (error) return reject(error);
      const chunks: Buffer[] = [];
      stream.on("data", (chunk: Buffer) => chunks.push(chunk));
      stream.on("end", () => resolve(Buffer.concat(chunks)));
      stream.on("error", reject);
    });
  });
}
