/** Output for people: messages go to stderr. */
export function say(line: string): void {
  process.stderr.write(`${printable(line)}\n`);
}

const said = new Set<string>();

/** Prints a line only once. For facts that a command meets repeatedly, such as the same data in each of its stages. */
export function sayOnce(line: string): void {
  if (!said.has(line)) say(line);
  said.add(line);
}

/** Results for people, on stdout. */
export function print(text: string): void {
  process.stdout.write(`${printable(text)}\n`);
}

/** Removes control characters, which a terminal would obey: names and labels come from whoever made the files. */
const printable = (text: string): string => text.replace(/[^\P{Cc}\t\n]/gu, "\ufffd");

/** Prints one JSON value, which is the whole of stdout. */
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
