import type { Plant } from "./plant.ts";

export const KERNELS: Plant[] = [];
