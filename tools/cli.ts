/** The `slimvit` command as a process of its own. */
import { runCommandLine } from "./commands/commandLine.ts";

const status = await runCommandLine(process.argv.slice(2));
// The ONNX runtime's threads and TensorFlow's would keep the process alive.
process.stdout.write("", () => process.exit(status));
