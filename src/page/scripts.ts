/** Addresses of our own scripts: this file's, whether one is of the page's origin, and what Trusted Types ask for. */
import { WORKER_NAME } from "../worker/name.ts";

/**
 * Of the file that this module ended up in. undefined in a classic script; bundlers that write no ES modules put the
 * address of the source file here, which starts with "file:".
 */
export const ownUrl: string | undefined = import.meta.url;

/** @returns undefined for an address that this page cannot load: a source file's, which a bundler has put there */
export function ofThisOrigin(url: string): boolean | undefined {
  const { protocol, origin } = new URL(url);
  if (protocol === "file:") return location.protocol === "file:" ? true : undefined;
  return origin === location.origin;
}

interface Policy {
  createScriptURL(url: string): unknown;
}

let policy: Policy | undefined;

/** @returns a TrustedScriptURL where the page has Trusted Types and allows our policy; else the address as it is */
export function trustScript(url: string): string {
  const { trustedTypes } = globalThis as {
    trustedTypes?: { createPolicy(name: string, rules: Policy): Policy };
  };
  try {
    policy ??= trustedTypes?.createPolicy(WORKER_NAME, { createScriptURL: (own) => own });
  } catch {} // The page does not allow it. If it requires one, the worker's constructor says so.
  return (policy?.createScriptURL(url) ?? url) as string;
}
