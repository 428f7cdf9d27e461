/**
 * How a package that the app bundles reaches our worker. The bundler makes a script of its own for it, which the worker
 * imports. Some bundlers write such a script without exports, so it also stores the package in a global.
 */

/** Key of the global: packages by name. */
export const PACKAGES: unique symbol = Symbol.for("slimvit.packages") as never;

/**
 * Prefix of the name of a worker that is started only to learn the address of its script. Each such worker has a name
 * of its own, because webpack puts workers with the same name into one file.
 */
export const ADDRESS_WORKER = "slimvit-address";

export function handOver(packages: Record<string, object>): void {
  const holder = globalThis as { [PACKAGES]?: Record<string, object> };
  holder[PACKAGES] = { ...holder[PACKAGES], ...packages };
  const scope = globalThis as unknown as { name?: string; postMessage(text: string): void };
  if (typeof WorkerGlobalScope !== "undefined" && scope.name?.startsWith(ADDRESS_WORKER))
    scope.postMessage(location.href);
}
