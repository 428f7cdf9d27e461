/** Faults of the runtime package as Node runs it: answers, streams, choosing. */
import type { Plant } from "./plant.ts";

export const RUNTIME: Plant[] = [
  {
    name: "topK is cut before deny",
    file: "src/worker/session.ts",
    find: "return order.slice(0, topK).map(",
    plant: "return order.filter((i) => [...scores].filter((v) => v > scores[i]).length < topK).map(",
    tests: ["test/worker/choices.test.ts"],
  },
  {
    name: "scores are those over the allowed classes alone",
    file: "src/worker/session.ts",
    find: "const scores = softmax(logits);\n    const order",
    plant:
      "const scores = softmax(allowed ? logits.map((v, i) => (allowed.has(i) ? v : -Infinity)) : logits);\n    const order",
    tests: ["test/worker/choices.test.ts"],
  },
  {
    name: "a threshold leaves out what scores exactly that",
    file: "src/worker/session.ts",
    find: "scores[i] >= scoreThreshold",
    plant: "scores[i] > scoreThreshold",
    tests: ["test/worker/choices.test.ts"],
  },
  {
    name: "a text that two labels have means the first",
    file: "src/worker/session.ts",
    find: "if (found.length) return found;",
    plant: "if (found.length) return found.slice(0, 1);",
    tests: ["test/worker/choices.test.ts"],
  },
  {
    name: "a stream gives the oldest frame",
    file: "src/page/videoFrames.ts",
    find: "if (newest) close(newest.frame);\n      if (end) return close(value as T);\n      newest = { frame: value as T };",
    plant:
      "if (newest) close(value);\n      if (end) return close(value as T);\n      newest ??= { frame: value as T };",
    tests: ["test/page/newestFrames.test.ts"],
  },
  {
    name: "dropped frames are not closed",
    file: "src/page/videoFrames.ts",
    find: "if (newest) close(newest.frame);\n      if (end)",
    plant: "if (end)",
    tests: ["test/page/newestFrames.test.ts"],
  },
];
