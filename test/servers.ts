/** Ports of this machine. */
import type { Server } from "node:http";
import { type AddressInfo, createServer } from "node:net";

/** @returns the origin at which it answers from now on */
export async function listen(server: Server): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** For programs that take a port and do not choose one. */
export function freePort(): Promise<number> {
  const socket = createServer();
  return new Promise((resolve) => {
    socket.listen(0, "127.0.0.1", () => {
      const { port } = socket.address() as AddressInfo;
      socket.close(() => resolve(port));
    });
  });
}
