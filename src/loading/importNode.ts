/**
 * One of Node's modules, by a variable: bundlers would look for it in a browser. In a template vite takes it for a chunk of
 * the app's, and makes the worker's script import the app's own.
 */
export function importNode(name: string): Promise<unknown> {
  const specifier = ["node", name].join(":"); // what the minifier would fold into a template again is no variable
  return import(/* @vite-ignore */ /* webpackIgnore: true */ specifier);
}
