// The demo: the public package, used as any page would. The slim model answers first; what it is compared with comes on request.
import { Insight } from "./insight.js";
import { Pickers } from "./pickers.js";
import { Pictures } from "./pictures.js";
import { Side } from "./side.js";
import { setUpTheme } from "./theme.js";
import { $, advice, isOurDoing, megabytes, milliseconds, nextTask, percent, spoken } from "./words.js";

/** A still picture is classified again for the statistics: at most this many times and for this long. */
const STILL_RUNS = 10;
const STILL_MS = 2500;
/**
 * In front of the camera, attention and times of the blocks are computed only now and then, because that costs a run.
 */
const LOOK_EVERY_MS = 600;
const SPEAK_EVERY_MS = 4000;

let pictures;
let pickers;
let insight;
let slim;
let dense;
/** the slider of the variants, once its script is there */
let variants;
let pairs = [];
let isPaused = false;
let turn = new AbortController(); // of the runs on what is shown now
let loads = 0;

async function start() {
  const list = fetchJson("models/index.json", "The list of models");
  list.catch(() => {}); // reported below
  // One job for each task, so that a slow phone can answer a finger in between.
  await nextTask();
  pictures = new Pictures(restart);
  const shown = pictures.showFirst();
  await nextTask();
  pictures.offerSamples();
  await nextTask();
  pickers = new Pickers(load);
  await nextTask();
  [slim, dense] = ["slim", "dense"].map((role) => new Side(role, { retry, changed: showVariant }));
  const [arriving, ...faults] = slim.waiting;
  $("arriving").append(arriving);
  $("first-status").append(...faults);
  $("sides").append(slim.root, dense.root);
  await nextTask();
  insight = new Insight(restart);
  setUpTheme(() => insight.redraw());
  pickers.probe();
  for (const id of ["model", "compare"]) $(id).addEventListener("change", id === "model" ? load : compare);
  pairs = pairsOf(await list);
  $("model").replaceChildren(...pairs.map(({ slim }, i) => new Option(slim.title, String(i))));
  await shown;
  const [parts] = await Promise.all([setUpParts(), load()]);
  parts?.keepForOffline();
}

/** The parts below the first screen. Their scripts load after all that the first screen needs. */
async function setUpParts() {
  try {
    const parts = await import("./parts.js");
    variants = await parts.setUp({ slim, pause, resume, restart, opened, benchmarkSetup, peerSetup });
    variants.show(slim.vit?.info);
    return parts;
  } catch (error) {
    $("parts-error").textContent = `The parts below could not be loaded: ${advice(error)} Reload the page.`;
  }
}

/** A slim model and the dense one it came from; a model that is neither stands alone. */
function pairsOf(list) {
  const baselines = new Set(list.map((entry) => entry.dense));
  return list
    .filter((entry) => entry.dense || !baselines.has(entry.folder))
    .map((slim) => ({ slim: { ...slim }, dense: list.find(({ folder }) => folder === slim.dense) }));
}

/** The slim model first: it answers while the dense one is still on its way. */
async function load() {
  const mine = ++loads;
  const pair = pairs[$("model").value];
  if (!pair) return;
  turn.abort();
  slim.unload();
  dense.unload();
  refresh();
  $("verdict").textContent = "Loading the model …";
  $("megabytes").textContent = "–";
  variants?.show();
  try {
    for (const model of [pair.slim, pair.dense]) {
      if (model) model.manifest ??= await fetchJson(`models/${model.folder}/slimvit.json`, `${model.title}`);
      if (mine !== loads) return;
    }
    pickers.offerDtypes(pair.slim.manifest.weights.map(({ dtype }) => dtype));
    insight.show(pair.slim.manifest, pair.dense?.manifest);
    await nextTask();
    $("compare").disabled = !pair.dense;
    $("compare-words").textContent = pair.dense
      ? `Compare with the dense original (${megabytes(bytesOf(pair.dense.manifest))} more)`
      : "This model has no dense original here";
    const isCompared = $("compare").checked && pair.dense;
    dense.root.hidden = !isCompared;
    if (!(await slim.load(pair.slim, options(pair.slim)))) return;
    report(pair);
    showVariant(slim);
    if (isCompared) await loadDense(pair.dense);
  } catch (error) {
    if (mine !== loads || isOurDoing(error)) return;
    if (error.code === "unsupported" && pickers.engine !== "auto") {
      pickers.refuse(pickers.engine, error.message);
      return load();
    }
    if (!slim.vit) {
      slim.fail(error);
      $("verdict").textContent = "The model could not be loaded";
    }
  }
}

/** Loads or removes the dense model. The slim one stays. */
async function compare() {
  const pair = pairs[$("model").value];
  if (!slim.vit) return load();
  dense.unload();
  dense.root.hidden = !$("compare").checked;
  refresh();
  restart();
  if ($("compare").checked) await loadDense(pair.dense).catch(() => {}); // its card says why
}

async function loadDense(model) {
  if (!(await dense.load(model, options(model)))) return;
  report({ dense: model });
  slim.runs = []; // runs beside a starting worker are not counted
  restart();
}

/** Called when another variant answers, or the first one of a model. */
function showVariant(side) {
  if (side !== slim) return restart();
  const { info } = slim.vit;
  const pair = pairs[$("model").value];
  $("megabytes").textContent = megabytes(info.sizeBytes);
  if (info.variants.length > 1) insight.show(pair.slim.manifest, pair.dense?.manifest, info.variant);
  runStill.last = undefined; // so that its times begin anew
  variants?.show(info);
  restart();
}

/**
 * Loads the chosen model for parts in which its variant must not change. Where it has no other variant, it shares its
 * worker.
 */
function opened(loadModel) {
  if (!slim.vit) throw new Error("The model is not loaded yet. Wait until the first answer is there, then try again.");
  const { folder, title } = pairs[$("model").value].slim;
  const { variants, variant } = slim.vit.info;
  const wanted = variants.length > 1 ? { variant } : {};
  return loadModel(`models/${folder}/`, { ...options(pairs[$("model").value].slim), ...wanted }, title);
}

/** A folder may lack the weights that were chosen for its partner. */
function options({ manifest }) {
  const { engine, dtype, threads } = pickers;
  return { engine, threads, dtype: manifest.weights.some((entry) => entry.dtype === dtype) ? dtype : "auto" };
}

/** Bytes of the weights that a load on this page would fetch. */
function bytesOf(manifest) {
  const { dtype } = options({ manifest });
  const entry = manifest.weights.find((weights) => weights.dtype === dtype) ?? manifest.weights[0];
  return entry.bytes;
}

function report({ dense }) {
  const { info } = slim.vit;
  const isMissing = $("compare").checked && dense && pickers.dtype !== "auto" && options(dense).dtype === "auto";
  const notes = isMissing ? [`${dense.title} has no ${pickers.dtype} weights; it runs those it has.`] : [];
  pickers.report(info, [...info.notes, ...notes]);
}

function retry() {
  if (slim.vit && (dense.vit || !$("compare").checked)) restart();
  else if (pairs.length) load();
  else location.reload();
}

function pause() {
  isPaused = true;
  turn.abort();
}

function resume() {
  isPaused = false;
  restart();
}

/** Called for another picture or another model. Runs in progress end. */
function restart() {
  turn.abort();
  turn = new AbortController();
  if (isPaused || !slim?.vit) return;
  variants?.showSource(pictures);
  const { signal } = turn;
  (pictures.live ? runLive(signal) : runStill(signal)).catch((error) => {
    if (signal.aborted || isOurDoing(error)) return;
    if (error.code === "bad-input") pictures.fail(advice(error));
    else refresh();
  });
}

const ready = () => [slim, dense].filter((side) => side.vit);

async function runStill(signal) {
  const picture = pictures.still;
  if (!picture) {
    for (const side of [slim, dense]) side.clear();
    return refresh();
  }
  const isNew = picture !== runStill.last;
  if (isNew) for (const side of [slim, dense]) side.runs = [];
  runStill.last = picture;
  for (const side of ready()) {
    await side.classify(picture, signal);
    refresh();
  }
  variants?.note(slim.answer);
  speak();
  await nextTask();
  insight.setPicture(await createImageBitmap(picture));
  const end = performance.now() + STILL_MS;
  for (let run = 1; run < STILL_RUNS && performance.now() < end; run++) {
    if (run % 3 === 1) await insight.look(slim.vit, picture, signal);
    for (const side of ready()) await side.classify(picture, signal);
    variants?.note(slim.answer);
    refresh();
  }
}

/** The newest frame is answered, and frames that came in between are dropped. The dense model sees the next one. */
async function runLive(signal) {
  const times = [];
  let [looked, spoken] = [0, 0];
  for (const side of [slim, dense]) side.runs = [];
  const budget = variants?.budget; // { latencyMs, onVariant } where the device chooses
  for await (const answer of slim.vit.stream($("video"), { ...budget, signal })) {
    slim.show(answer);
    variants?.note(answer);
    if (dense.vit) await dense.classify($("video"), signal);
    const now = performance.now();
    if (now - looked > LOOK_EVERY_MS) {
      const frame = await createImageBitmap($("video"));
      await insight.look(slim.vit, frame, signal);
      insight.setPicture(frame);
      frame.close();
      looked = performance.now();
    }
    if (now - spoken > SPEAK_EVERY_MS) {
      speak();
      spoken = now;
    }
    times.push(performance.now());
    if (times.length > 20) times.shift();
    const rate = (1000 * (times.length - 1)) / (times.at(-1) - times[0]);
    $("rate").textContent = times.length > 1 ? `${rate.toFixed(1)} frames/s` : "";
    refresh();
  }
}

function refresh() {
  const top = (slim.answer ?? dense.answer)?.classes[0];
  $("results").classList.toggle("empty", !top);
  $("sure").textContent = top ? percent(top.score) : "\u00a0"; // its line keeps its height
  $("sure").classList.toggle("coming", !top);
  $("ms").textContent = slim.runs.length ? `${milliseconds(slim.median)} ms` : "–";
  if (top) $("verdict").textContent = spoken(top.label);
  else if (slim.vit && !pictures.still && !pictures.live) $("verdict").textContent = "Choose a picture";
  $("comparison").replaceChildren(...comparison());
}

/** @returns {(string | Node)[]} the sentence under the answer */
function comparison() {
  const [a, b] = [slim, dense].map(({ answer }) => answer?.classes[0]);
  if (!a) return [];
  if (!b) return [];
  const ratio = dense.median / slim.median;
  const share = (key) => percent(slim.vit.info[key] / dense.vit.info[key]);
  const speed = Object.assign(document.createElement("strong"), { textContent: `${ratio.toFixed(2)} × as fast` });
  const agree = a.index === b.index ? "Both models agree." : `The dense model says ${spoken(b.label)}.`;
  const [ours, theirs] = [slim, dense].map(({ vit }) => vit.info.dtype);
  const weights = ours === theirs ? "" : `, with ${ours} weights against ${theirs}`;
  return [
    speed,
    ` as dense, with ${share("macs")} of the multiply-accumulates and ${share("sizeBytes")} of the download${weights}. ${agree}`,
  ];
}

/** Announces answers to screen readers: one for each picture, and in front of the camera only now and then. */
function speak() {
  const top = slim.answer?.classes[0];
  if (top) $("status").textContent = `${spoken(top.label)}, ${percent(top.score)}`;
}

/** The other runtime's model knows ImageNet's classes, so ours must know them, too. */
function peerSetup() {
  const model = pairs.find(({ dense }) => dense)?.slim;
  const picture = pictures.still;
  if (!model || !picture) throw new Error("Choose a picture first; the camera cannot be compared.");
  return { folder: model.folder, picture };
}

function benchmarkSetup() {
  const pair = pairs[$("model").value];
  const picture = pictures.still;
  if (!pair?.slim.manifest || !picture)
    throw new Error("Choose a picture and wait for the model, then run the benchmark.");
  const models = [pair.dense, pair.slim].filter(Boolean);
  return { models, engines: pickers.engines, threads: pickers.threads, picture };
}

async function fetchJson(url, what) {
  const response = await fetch(url).catch(() => undefined);
  if (response?.ok) return response.json();
  throw new Error(
    response
      ? `${what} is not on this server (it answered ${response.status}).`
      : `${what} could not be downloaded. Check the connection, then try again.`,
  );
}

start().catch((error) => {
  slim?.fail(error);
  $("verdict").textContent = "The page could not start";
});
