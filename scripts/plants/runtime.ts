/** Faults of the runtime package as Node runs it: answers, streams, choosing. */
import type { Plant } from "./plant.ts";

export const RUNTIME: Plant[] = [
  {
    name: "topK is cut before deny",
    file: "src/worker/classes.ts",
    find: "classes: order.slice(0, topK).map(",
    plant: "classes: order.filter((i) => [...scores].filter((v) => v > scores[i]).length < topK).map(",
    tests: ["test/worker/choices.test.ts"],
  },
  {
    name: "scores are those over the allowed classes alone",
    file: "src/worker/classes.ts",
    find: "const scores = scoresOf(output);",
    plant:
      "const all = scoresOf(output);\n    const sum = all.reduce((a, v, i) => a + (allowed?.has(i) ?? true ? v : 0), 0);\n    const scores = all.map((v) => v / sum);",
    tests: ["test/worker/choices.test.ts"],
  },
  {
    name: "a threshold leaves out what scores exactly that",
    file: "src/worker/classes.ts",
    find: "scores[i] >= scoreThreshold",
    plant: "scores[i] > scoreThreshold",
    tests: ["test/worker/choices.test.ts"],
  },
  {
    name: "a text that two labels have means the first",
    file: "src/worker/classes.ts",
    find: "if (found.length) return found;",
    plant: "if (found.length) return found.slice(0, 1);",
    tests: ["test/worker/choices.test.ts"],
  },
  {
    name: "a stream gives the oldest frame",
    file: "src/page/videoFrames.ts",
    find: "if (waiting && isVideo(picture)) close(waiting.picture);\n      if (end) return close(picture);\n      waiting = { picture };",
    plant:
      "if (waiting && isVideo(picture)) close(picture);\n      if (end) return close(picture);\n      waiting ??= { picture };",
    tests: ["test/page/newestFrames.test.ts"],
  },
  {
    name: "dropped frames are not closed",
    file: "src/page/videoFrames.ts",
    find: "if (waiting && isVideo(picture)) close(waiting.picture);",
    plant: "",
    tests: ["test/page/newestFrames.test.ts"],
  },
  {
    name: "pictures that are no video are dropped as well",
    file: "src/page/videoFrames.ts",
    find: "while (waiting && !isVideo(picture) && !end)",
    plant: "while (false)",
    tests: ["test/page/newestFrames.test.ts"],
  },
];
