import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

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

export default defineConfig({
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
