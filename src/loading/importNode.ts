/** Hidden from bundlers, which would look for Node's modules in a browser. */
export function importNode(name: string): Promise<unknown> {
  return import(/* @vite-ignore */ /* webpackIgnore: true */ `node:${name}`);
}
