export const WEBNN_FLAGS: string[];
export function findWebnnChromium(): string | undefined;
