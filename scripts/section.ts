import { readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("..", import.meta.url));
export const PAGE = fileURLToPath(new URL("../docs/robustness.md", import.meta.url));

/** Replaces what docs/robustness.md has between `<!-- name:begin -->` and `<!-- name:end -->`. */
export function writeSection(name: string, text: string): void {
  const [begin, end] = [`<!-- ${name}:begin -->`, `<!-- ${name}:end -->`];
  const page = readFileSync(PAGE, "utf8");
  const [before, after] = [page.split(begin)[0], page.split(end)[1]];
  if (after === undefined) throw new Error(`docs/robustness.md has no section ${name}.`);
  writeFileSync(PAGE, `${before}${begin}\n${text}\n${end}${after}`);
}

/** The machine and versions that figures come from. */
export const machine = `${cpus()[0]?.model ?? "unknown"}, ${cpus().length} cores, Node ${process.versions.node}`;

export const thousands = (n: number): string => n.toLocaleString("en-US");
