/** Addresses of scripts: which of them a page can load, whether one is of the page's origin, and Trusted Types. */
import { WORKER_NAME } from "../protocol.ts";

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

interface Policy {
  createScriptURL(url: string): unknown;
}

let policy: Policy | undefined;

/** @returns a TrustedScriptURL where the page has Trusted Types and allows our policy; else the address as it is */
export function trustScript(url: string): string {
  const { trustedTypes } = globalThis as { trustedTypes?: { createPolicy(name: string, rules: Policy): Policy } };
  try {
    policy ??= trustedTypes?.createPolicy(WORKER_NAME, { createScriptURL: (own) => own });
  } catch {} // The page does not allow it. If it requires one, the worker's constructor says so.
  return (policy?.createScriptURL(url) ?? url) as string;
}
