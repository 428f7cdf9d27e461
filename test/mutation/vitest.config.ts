/** The tests that hold what is being mutated; scripts/mutation.ts names them. */
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import usual from "../../vitest.config.ts";

export default defineConfig({
  ...usual,
  root: fileURLToPath(new URL("../..", import.meta.url)),
  test: { ...usual.test, include: (process.env.MUTATION_TESTS ?? "").split(" ").filter(Boolean) },
});
