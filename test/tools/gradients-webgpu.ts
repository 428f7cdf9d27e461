/** Run in a process of its own, where the environment names a Vulkan driver: gradients as JSON lines on stdout. */
import { openBackend } from "../../tools/training/backend.ts";
import { FORMS, gradients } from "./gradients.ts";

const { tf } = await openBackend("webgpu");
for (const [, options, network] of FORMS) {
  const grads = await gradients(tf, options, network);
  process.stdout.write(`${JSON.stringify([...grads].map(([name, data]) => [name, [...data]]))}\n`);
}
process.stdout.write("", () => process.exit()); // Dawn keeps the process alive
