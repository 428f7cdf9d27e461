/** People's words go to stderr, programs' JSON to stdout. */
export function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** One JSON value, the whole of stdout. */
export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

/** 1234567890 → "1.23 G" */
export function si(value: number): string {
  const units = ["", " k", " M", " G", " T"];
  const power = Math.min(4, Math.max(0, Math.floor(Math.log10(Math.max(1, value)) / 3)));
  return `${(value / 1000 ** power).toFixed(power ? 2 : 0)}${units[power]}`;
}

export const percent = (fraction: number): string => `${(100 * fraction).toFixed(1)} %`;
