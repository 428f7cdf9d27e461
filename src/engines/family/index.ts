/** What only folders of several variants need: dist/engine-family.js, which the worker loads for them. */
export { SlabReader } from "../../loading/slabReader.ts";
export { sharedFamily } from "./shared.ts";
export { type InTurn, type Running, Variants } from "./variants.ts";
