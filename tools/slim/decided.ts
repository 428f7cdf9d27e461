/**
 * Decisions that depend on this machine's speed at one moment. They are stored, so that the same command continues as it
 * began.
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { writeFileAtomic } from "../models/folders.ts";

/** @returns the first result of `decide` for this key */
export async function decided<T>(file: string, key: string, decide: () => Promise<T>): Promise<T> {
  const all: Record<string, T> = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : {};
  const name = createHash("sha256").update(key).digest("hex").slice(0, 16);
  if (name in all) return all[name];
  all[name] = await decide();
  writeFileAtomic(file, `${JSON.stringify(all, null, 2)}\n`);
  return all[name];
}
