/** Imports Node's modules through a variable, because bundlers would otherwise look for them in a browser build. */
export function importNode(name: "node:fs/promises" | "node:url"): Promise<unknown> {
  return import(/* @vite-ignore */ /* webpackIgnore: true */ name);
}
