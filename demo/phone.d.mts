import type { Page } from "playwright-core";

export const PHONE: { viewport: { width: number; height: number } };
/** In the page, before its own scripts: fills `globalThis.seen`. */
export function watch(): void;
export function slowDown(page: Page): Promise<void>;
