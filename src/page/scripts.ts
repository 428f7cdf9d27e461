/** Addresses of scripts: whether a page can load one, and whether it has the page's origin. */

/**
 * Whether a script's import.meta.url is an address that this page can load. It is undefined in a classic script, and a
 * source file's, "file:…", where webpack, Rspack, Turbopack or Parcel made the page's scripts.
 */
export function isAddress(url: string | undefined): url is string {
  return url !== undefined && (!url.startsWith("file:") || globalThis.location?.protocol === "file:");
}

export function isOfThisOrigin(url: string): boolean {
  const { protocol, origin } = new URL(url);
  return protocol === "file:" || origin === location.origin;
}
