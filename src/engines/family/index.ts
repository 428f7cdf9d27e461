/** The entry of dist/engine-family.js, which the worker loads only for folders of several variants. */
export { SlabReader } from "../../loading/slabReader.ts";
export { sharedFamily } from "./shared.ts";
export { type InTurn, type Running, Variants } from "./variants.ts";
