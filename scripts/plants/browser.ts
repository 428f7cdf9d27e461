import type { Plant } from "./plant.ts";

export const BROWSER: Plant[] = [];
