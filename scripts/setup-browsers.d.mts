export function findFirefox(): string | undefined;
export function findWebKit(): { driver: string; xvfb: string; miniBrowser: string } | undefined;
