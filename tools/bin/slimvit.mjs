#!/usr/bin/env node
// In a clone the tools run from their TypeScript sources; the package has them built.
import { existsSync } from "node:fs";

const sources = new URL("../cli.ts", import.meta.url);
if (existsSync(sources)) {
  const { register } = await import("tsx/esm/api");
  register();
  await import(sources.href);
} else await import("../dist/cli.js");
