#!/usr/bin/env node
// The tools run from their TypeScript sources.
import { register } from "tsx/esm/api";

register();
await import("../cli.ts");
