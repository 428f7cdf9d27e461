import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";
import { WORKER_CHUNKS } from "./rollup.config.ts";

/** The longest of `npm run robustness`: begun last, one would run alone at its end. */
const LONG = ["gpu-memory", "device-lost", "killed", "lifecycle", "engines"];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const isLong = (name: string) => (file: TestSpecification) =>
      file.moduleId.endsWith(`test/robustness/${name}.test.ts`);
    const long = LONG.flatMap((name) => files.filter(isLong(name)));
    return [...long, ...(await super.sort(files.filter((file) => !long.includes(file))))];
  }
}

/** As the build does it: a chunk of the worker's beside index.js is its folder's index.ts, and tells its address. */
const workerChunks = {
  name: "worker-chunks",
  enforce: "pre" as const,
  resolveId(id: string) {
    const [input] = Object.entries(WORKER_CHUNKS).find(([, name]) => id === `./${name}.js`) ?? [];
    return input && fileURLToPath(new URL(input, import.meta.url));
  },
  transform: (code: string, id: string) =>
    /\/src\/(engines\/[\w-]+|teach)\/index\.ts$/.test(id)
      ? `${code}\nexport const url = import.meta.url;\n`
      : undefined,
};

export default defineConfig({
  plugins: [workerChunks],
  test: {
    include: ["test/**/*.test.ts"],
    setupFiles: ["test/setup.ts"],
    // Against hangs only: a busy machine can be twenty times slower than a quiet one.
    testTimeout: 600_000,
    hookTimeout: 600_000,
    maxWorkers: 2,
    sequence: { sequencer: LongestFirst },
  },
});
