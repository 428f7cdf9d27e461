/** Trusted Types: pages and workers that require them start a worker only from an address that a policy has created. */
import { WORKER_NAME } from "./protocol.ts";

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
