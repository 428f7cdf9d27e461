// The parts below the first screen.
import { setUpBenchmark } from "./benchmark.js";
import { setUpCode } from "./code.js";
import { setUpPeer } from "./peer.js";
import { Search } from "./search.js";
import { Teach } from "./teach.js";
import { Variants } from "./variants.js";
import { nextTask } from "./words.js";

export { keepForOffline } from "./offline.js";

/**
 * @param {object} page
 * @param {import("./side.js").Side} page.slim the model that the page starts with
 * @param {(load: (folder: string, options: object, title: string) => unknown) => unknown} page.opened loads the chosen model once more
 * @returns {Promise<Variants>}
 */
export async function setUp(page) {
  const { slim, pause, resume, restart, opened, benchmarkSetup, peerSetup } = page;
  const tasks = [
    () => setUpPeer(peerSetup, { pause, resume }),
    () => new Teach(opened, { pause, resume }),
    () => new Search(opened, { pause, resume }),
    () => setUpBenchmark(benchmarkSetup, { pause, resume }),
    setUpCode,
  ];
  for (const task of tasks) {
    await nextTask();
    task();
  }
  return new Variants(slim, restart);
}
