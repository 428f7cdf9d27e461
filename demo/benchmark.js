// Every engine that works here × dense and slim × their weights: warmed, interleaved, medians, a table to copy.
import { SlimViT } from "slimvit";
import { ENGINE_URLS } from "./side.js";
import { $, advice, counted, element, isOurDoing, milliseconds, quantile } from "./words.js";

const ROUNDS = 15;
const WARM_UP = 2;
/** Seconds that each picture is shown: long enough to see it, short enough not to wait. */
const SLOW = { reference: { rounds: 1, warmUp: 0 } };

let stop; // the running benchmark's
let rows = [];

/**
 * @param {() => { models: { folder: string, manifest: object }[], engines: string[], threads: number | "auto", picture: Blob }} setup dense first
 * @param {{ pause(): void, resume(): void }} page pauses other computations of the page
 */
export function setUpBenchmark(setup, page) {
  describeDevice().then((text) => ($("device").textContent = text));
  $("bench").addEventListener("click", async () => {
    if (stop) return stop.abort();
    stop = new AbortController();
    $("bench").textContent = "Stop";
    page.pause();
    try {
      rows = [];
      showRows();
      const { engines, ...rest } = setup();
      for (const engine of engines) await measureEngine(engine, rest, stop.signal);
      say("Done.");
    } catch (error) {
      say(isOurDoing(error) ? "Stopped." : advice(error));
    } finally {
      stop = undefined;
      $("bench").textContent = "Run the benchmark";
      page.resume();
    }
  });
  $("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(markdown());
      say("Copied.");
    } catch {
      say("The browser did not allow copying; select the table instead.");
    }
  });
}

/** All models of an engine are open at once and take turns, so that a busy moment slows each of them equally. */
async function measureEngine(engine, { models, threads, picture }, signal) {
  const { rounds, warmUp } = SLOW[engine] ?? { rounds: ROUNDS, warmUp: WARM_UP };
  const contenders = models.flatMap(({ folder, manifest }) => {
    const dtypes = manifest.weights.map(({ dtype }) => dtype);
    return (SLOW[engine] ? dtypes.slice(0, 1) : dtypes).map((dtype) => ({
      folder,
      name: manifest.name,
      dtype,
      times: [],
    }));
  });
  try {
    for (const contender of contenders) {
      say(`${engine}: opening ${contender.name}, ${contender.dtype} …`);
      const { folder, dtype } = contender;
      contender.vit = await SlimViT.load(`models/${folder}/`, {
        engine,
        dtype,
        threads,
        engineUrls: ENGINE_URLS,
        signal,
      });
    }
    for (let round = -warmUp; round < rounds; round++) {
      say(round < 0 ? `${engine}: warming up …` : `${engine}: round ${round + 1} of ${rounds}`);
      for (const { vit, times } of contenders) {
        const { latencyMs } = await vit.classify(picture, { signal });
        if (round >= 0) times.push(latencyMs.inference);
      }
    }
    const base = quantile(contenders[0].times, 0.5);
    for (const { name, dtype, times, vit } of contenders) {
      const [low, middle, high] = [0.1, 0.5, 0.9].map((q) => quantile(times, q));
      const spread = `${milliseconds(middle)} (${milliseconds(low)}–${milliseconds(high)})`;
      rows.push([name, engine, dtype, String(vit.info.threads), spread, (middle / base).toFixed(2)]);
    }
  } catch (error) {
    if (error.code !== "unsupported") throw error;
    rows.push(["–", engine, "–", "–", error.message, "–"]);
  } finally {
    for (const { vit } of contenders) vit?.dispose();
    showRows();
  }
}

function showRows() {
  $("bench-scroll").hidden = $("copy").hidden = rows.length === 0;
  const cells = (row) => row.map((text) => element("td", { textContent: text }));
  $("bench-table").tBodies[0].replaceChildren(...rows.map((row) => element("tr", {}, ...cells(row))));
}

function markdown() {
  const head = [...$("bench-table").tHead.rows[0].cells].map((cell) => cell.textContent);
  const line = (cells) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line), "", $("device").textContent].join("\n");
}

/** The device and the browser, as far as the browser reports them. */
async function describeDevice() {
  const { userAgentData, hardwareConcurrency: cores, deviceMemory, userAgent } = navigator;
  const hints = await userAgentData
    ?.getHighEntropyValues(["platformVersion", "architecture", "model", "fullVersionList"])
    .catch(() => undefined);
  const brand = hints?.fullVersionList?.filter(({ brand }) => !/not.?a.?brand/i.test(brand)).at(-1);
  return [
    brand ? `${brand.brand} ${brand.version}` : userAgent,
    hints && [hints.model, hints.platform, hints.platformVersion, hints.architecture].filter(Boolean).join(" "),
    counted(cores, "core"),
    deviceMemory && `${deviceMemory} GB or more`,
    crossOriginIsolated ? "isolated page (threads)" : "page not isolated (one thread)",
  ]
    .filter(Boolean)
    .join("; ");
}

function say(text) {
  $("bench-status").textContent = text;
}
