/**
 * Before every test file: properties are tried on the same examples each time, so that a failure is one of the change at
 * hand. Another FC_SEED tries others.
 */
import fc from "fast-check";

fc.configureGlobal({ seed: Number(process.env.FC_SEED ?? 2026) });
