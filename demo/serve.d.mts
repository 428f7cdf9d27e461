import type { Server } from "node:http";
export function serveDemo(options?: { port?: number; isolated?: boolean }): Promise<{ server: Server; url: string }>;
