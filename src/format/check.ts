/** Checks of the fields of a JSON file. */
import { SlimViTError } from "../errors.ts";
import { show } from "./show.ts";

/** Each check returns the value it has checked, or throws one sentence that names the file. */
export class Check {
  constructor(private readonly name: string) {}

  fail(fault: string): never {
    throw new SlimViTError("bad-model", `${this.name}: ${fault}`);
  }
  object(value: unknown, what: string): Record<string, unknown> {
    if (typeof value !== "object" || value === null || Array.isArray(value))
      this.fail(`${what} is ${show(value)}; expected an object.`);
    return value as Record<string, unknown>;
  }
  string(value: unknown, what: string): string {
    if (typeof value !== "string") this.fail(`${what} is ${show(value)}; expected a string.`);
    return value as string;
  }
  boolean(value: unknown, what: string): boolean {
    if (typeof value !== "boolean") this.fail(`${what} is ${show(value)}; expected true or false.`);
    return value as boolean;
  }
  oneOf<T extends string>(value: unknown, what: string, choices: readonly T[]): T {
    const quoted = choices.map((choice) => JSON.stringify(choice));
    if (!choices.includes(value as T))
      this.fail(`${what} is ${show(value)}; expected ${quoted.slice(0, -1).join(", ")} or ${quoted.at(-1)}.`);
    return value as T;
  }
  integer(value: unknown, what: string, min: number, max: number): number {
    if (!Number.isSafeInteger(value) || (value as number) < min || (value as number) > max) {
      this.fail(`${what} is ${show(value)}; expected a whole number from ${min} to ${max}.`);
    }
    return value as number;
  }
  number(value: unknown, what: string, isPositive: boolean): number {
    const single = Math.fround(value as number);
    if (typeof value !== "number" || !Number.isFinite(single) || (isPositive && single <= 0))
      this.fail(`${what} is ${show(value)}; expected a number${isPositive ? " above 0" : ""}.`);
    return value as number;
  }
  list(value: unknown, what: string, min: number, max: number): unknown[] {
    if (!Array.isArray(value)) this.fail(`${what} is ${show(value)}; expected a list.`);
    const { length } = value as unknown[];
    if (length < min || length > max)
      this.fail(`${what} has ${length} entries; expected ${min === max ? min : `${min} to ${max}`}.`);
    return value as unknown[];
  }
  pair(value: unknown, what: string, max: number): [number, number] {
    const [first, second] = this.list(value, what, 2, 2);
    return [this.integer(first, what, 1, max), this.integer(second, what, 1, max)];
  }
}
