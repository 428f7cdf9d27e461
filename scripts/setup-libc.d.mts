export function nodeFor(addon: string, folder: string): string[];
