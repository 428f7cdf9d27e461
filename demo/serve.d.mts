import type { Server } from "node:http";
export function serveDemo(options?: {
  port?: number;
  isolated?: boolean;
  more?: [path: string, folder: string][];
}): Promise<{ server: Server; url: string }>;
