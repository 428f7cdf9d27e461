/** Faults of the demo and of what runs in a page alone. */
import type { Plant } from "./plant.ts";

const MEANING = "test/browser/demo-meaning.test.ts";
const PEER = "test/browser/demo-peer.test.ts";
const MERGED = "test/browser/demo-merged.test.ts";
const PAGE = "test/browser/demo.test.ts";
const demo = (name: string, file: string, find: string, plant: string, tests = [MEANING]): Plant => ({
  ...{ name, file: `demo/${file}`, find, plant, tests },
});

export const BROWSER: Plant[] = [
  demo(
    "the headline shows the other model's label",
    "main.js",
    'const top = (slim.answer ?? dense.answer)?.classes[0];\n  $("results")',
    'const top = (dense.answer ?? slim.answer)?.classes[0];\n  $("results")',
  ),
  demo("the ratio is inverted", "main.js", "dense.median / slim.median", "slim.median / dense.median"),
  demo(
    "shares are of the slim model",
    "main.js",
    "slim.vit.info[key] / dense.vit.info[key]",
    "dense.vit.info[key] / slim.vit.info[key]",
  ),
  demo("the ratio against transformers.js is inverted", "peer.js", "theirs / ours", "ours / theirs", [PEER]),
  demo("any two labels agree", "peer.js", "names(labels.their).includes(labels.our.toLowerCase())", "true", [PEER]),
  demo(
    "patches of one token are divided",
    "groups.js",
    "groups[patch + right + down * columns] === groups[patch]",
    "groups[patch + right + down * columns] === patch",
    [MERGED],
  ),
  demo("the page starts with other weights", "pickers.js", 'FIRST_DTYPE = "int8"', 'FIRST_DTYPE = "f16"', [PAGE]),
  demo(
    "the service worker prefers the old page",
    "sw.js",
    "  try {\n    const response = await fetch(request);",
    "  const old = await cache.match(request, { ignoreSearch: true });\n  if (old) return old;\n  try {\n    const response = await fetch(request);",
  ),
  demo(
    "frames are queued: the oldest is answered",
    "main.js",
    'slim.vit.stream($("video"), {',
    'slim.vit.stream((async function* () {\n    const queue = [];\n    setInterval(async () => queue.push(await createImageBitmap($("video"))), 33);\n    for (;;) {\n      while (!queue.length) await new Promise((resolve) => setTimeout(resolve, 5));\n      yield queue.shift();\n    }\n  })(), {',
  ),
  demo(
    "bars show a class's neighbour",
    "side.js",
    "item.lastChild.textContent = percent(score, 1);",
    "item.lastChild.textContent = percent(classes[(i + 1) % classes.length].score, 1);",
  ),
];
