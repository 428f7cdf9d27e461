/** By a variable, because bundlers would look for Node's modules in a browser. */
export function importNode(name: "node:fs/promises" | "node:url"): Promise<unknown> {
  return import(/* @vite-ignore */ /* webpackIgnore: true */ name);
}
