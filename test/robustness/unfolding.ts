// Hostile manifests and safetensors headers as large as are read at all, of the JSON that makes most of each byte.
// Run by format.test.ts in a process of little memory; prints a line each.
import { MAX_MANIFEST_BYTES, readManifest } from "../../src/format/read.ts";
import { readSafetensors } from "../../src/format/safetensors.ts";

/** As many of `unit` as fit. */
function fill(open: string, unit: (k: number) => string, close: string, bytes: number): string {
  const parts: string[] = [];
  for (let length = 2, k = 0; ; k++) {
    parts.push(unit(k));
    length += parts[k].length + 1;
    if (length > bytes - 64) return open + parts.join() + close;
  }
}

const SHAPES: Record<string, (bytes: number) => string> = {
  "empty objects": (bytes) => fill("[", () => "{}", "]", bytes),
  "empty lists": (bytes) => fill("[", () => "[]", "]", bytes),
  "lists in lists": (bytes) => "[".repeat(bytes / 2 - 32) + "]".repeat(bytes / 2 - 32),
  keys: (bytes) => fill("{", (k) => `"${k.toString(36)}":0`, "}", bytes),
  "keys of objects": (bytes) => fill("{", (k) => `"${k.toString(36)}":{}`, "}", bytes),
  "objects of one key each": (bytes) => fill("[", (k) => `{"${k.toString(36)}":0}`, "]", bytes),
  "short strings": (bytes) => fill("[", (k) => `"${k.toString(36)}"`, "]", bytes),
};

function report(name: string, read: () => unknown): void {
  try {
    read();
    console.log(`read ${name}`);
  } catch (error) {
    console.log(`${(error as Error).name === "SlimViTError" ? "refused" : error} ${name}`);
  }
}

for (const [name, make] of Object.entries(SHAPES)) {
  report(`${name} in a manifest`, () => readManifest(make(MAX_MANIFEST_BYTES), "x"));
  report(`${name} in a header`, () => {
    const json = new TextEncoder().encode(`{"w":${make(MAX_MANIFEST_BYTES)}}`);
    const file = new Uint8Array(8 + json.length);
    new DataView(file.buffer).setUint32(0, json.length, true);
    file.set(json, 8);
    readSafetensors(file, "x");
  });
}
