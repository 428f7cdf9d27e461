export function buildDemo(out: string): number;
