// The demo: the public package, used as any page would.
import { SlimViT, SlimViTError } from "slimvit";

/** File names in samples/ and what to call them; the first is shown on arrival. */
const TITLES = {
  panda: "panda",
  pizza: "pizza",
  dalmatian: "Dalmatian",
  chelsea: "cat",
  flamingo: "flamingo",
  strawberry: "strawberries",
  coffee: "coffee",
  umbrella: "umbrella",
  grand_piano: "grand piano",
  laptop: "laptop",
  starfish: "starfish",
  llama: "llama",
  elephant: "elephant",
  soccer_ball: "soccer ball",
  hedgehog: "hedgehog",
  scorpion: "scorpion",
  flower: "flower",
  china: "pavilion",
  camera: "photographer",
  rocket: "rocket",
  astronaut: "astronaut",
  revolver: "revolver",
};

const $ = (id) => document.getElementById(id);
let vit; // the loaded model
let loading = new AbortController();
let shown; // the picture on the page: a Blob
let turn = 0; // only the newest load or classification may write to the page

async function start() {
  $("samples").append(...Object.entries(TITLES).map(sampleButton));
  $("model").addEventListener("change", load);
  $("engine").addEventListener("change", load);
  $("file").addEventListener("change", () => {
    if ($("file").files[0]) show($("file").files[0]);
    $("file").value = ""; // so that the same file can be chosen again
  });
  $("preview").addEventListener("error", () => togglePreview(false));
  acceptDrops();
  const response = await fetch("models/index.json");
  if (!response.ok) throw new Error("There is no list of models (models/index.json) beside this page.");
  for (const { folder, title } of await response.json()) $("model").append(new Option(title, folder));
  await Promise.all([showSample(Object.keys(TITLES)[0]), load()]);
}

async function load() {
  const mine = ++turn;
  loading.abort();
  loading = new AbortController();
  vit?.dispose();
  vit = undefined;
  for (const id of ["classes", "latency", "facts", "notes"]) $(id).replaceChildren();
  $("result").removeAttribute("aria-busy");
  say("Loading the model …");
  $("progress").hidden = false;
  try {
    const loaded = await SlimViT.load(`models/${$("model").value}/`, {
      engine: $("engine").value,
      engineUrls: { "onnxruntime-web": "ort/ort.wasm.bundle.min.mjs" },
      signal: loading.signal,
      onProgress: ({ loadedBytes, totalBytes, cached }) => {
        if (mine !== turn) return;
        $("progress").value = loadedBytes / totalBytes;
        if (cached) say("Starting the model from this browser's cache …");
        else if (loadedBytes === totalBytes) say("Starting the model …");
        else say(`Loading the model: ${megabytes(loadedBytes)} of ${megabytes(totalBytes)}`);
      },
    });
    if (mine !== turn) return loaded.dispose();
    vit = loaded;
    showFacts(vit.info);
    say("Ready. Choose a picture.");
    if (shown) await classify();
  } catch (error) {
    if (mine === turn) fail(error);
  } finally {
    if (vit || mine === turn) $("progress").hidden = true;
  }
}

async function show(blob, sample) {
  shown = blob;
  $("preview").alt = TITLES[sample] ?? blob.name ?? "";
  for (const button of $("samples").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.sample === sample));
  }
  URL.revokeObjectURL($("preview").src);
  $("preview").src = URL.createObjectURL(blob);
  togglePreview(true);
  if (vit) await classify();
}

async function showSample(name) {
  try {
    const response = await fetch(`samples/${name}.jpg`);
    if (!response.ok) throw new Error(`The sample picture could not be fetched (${response.status}).`);
    await show(await response.blob(), name);
  } catch (error) {
    fail(error);
  }
}

function togglePreview(isShown) {
  $("preview").hidden = !isShown;
  $("drop").classList.toggle("filled", isShown);
}

async function classify() {
  const mine = ++turn;
  $("result").setAttribute("aria-busy", "true");
  try {
    const { classes, latencyMs, engine } = await vit.classify(shown);
    if (mine !== turn) return;
    say(`${classes[0].label}, ${(100 * classes[0].score).toFixed(0)} %`);
    $("classes").replaceChildren(...classes.map(bar));
    figures("latency", [
      ["preprocess", `${latencyMs.preprocess.toFixed(1)} ms`],
      ["inference", `${latencyMs.inference.toFixed(1)} ms`],
      ["total", `${latencyMs.total.toFixed(1)} ms`],
      ["engine", `${engine}, ${vit.info.threads} ${vit.info.threads === 1 ? "thread" : "threads"}`],
    ]);
  } catch (error) {
    if (mine === turn) fail(error);
  } finally {
    if (mine === turn) $("result").removeAttribute("aria-busy");
  }
}

function showFacts(info) {
  const heads = info.blocks.reduce((sum, { headDims }) => sum + headDims.length, 0);
  const channels = info.blocks.reduce((sum, { headDims }) => sum + headDims.reduce((a, b) => a + b, 0), 0);
  const units = info.blocks.reduce((sum, { mlpHidden }) => sum + mlpHidden, 0);
  const tokens = info.blocks.map(({ keepIdx }) => keepIdx.length);
  figures("facts", [
    ["download", `${megabytes(info.sizeBytes)} (${info.dtype})`],
    ["multiply-accumulates", `${(info.macs / 1e9).toFixed(2)} G`],
    ["parameters", `${(info.params / 1e6).toFixed(2)} M`],
    ["attention", `${heads} heads, ${channels.toLocaleString("en")} channels`],
    ["MLP units", units.toLocaleString("en")],
    ["tokens, first → last block", `${tokens[0]} → ${tokens.at(-1)}`],
  ]);
  $("notes").textContent = info.notes.join(" ");
}

function bar({ label, score }) {
  const item = document.createElement("li");
  const name = Object.assign(document.createElement("span"), { textContent: label });
  const share = Object.assign(document.createElement("span"), {
    textContent: `${(100 * score).toFixed(1)} %`,
    className: "share",
  });
  item.append(name, share);
  item.style.setProperty("--score", score);
  return item;
}

function figures(id, pairs) {
  $(id).replaceChildren(
    ...pairs.map(([term, value]) => {
      const group = document.createElement("div");
      group.append(
        Object.assign(document.createElement("dt"), { textContent: term }),
        Object.assign(document.createElement("dd"), { textContent: value }),
      );
      return group;
    }),
  );
}

function sampleButton([name, title]) {
  const item = document.createElement("li");
  const button = Object.assign(document.createElement("button"), { type: "button", title });
  button.dataset.sample = name;
  button.setAttribute("aria-pressed", "false");
  button.append(Object.assign(new Image(), { loading: "lazy", alt: title, src: `samples/${name}.jpg` }));
  button.addEventListener("click", () => showSample(name));
  item.append(button);
  return item;
}

function acceptDrops() {
  for (const type of ["dragover", "dragleave", "drop"]) {
    addEventListener(type, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", type === "dragover");
    });
  }
  addEventListener("drop", ({ dataTransfer }) => dataTransfer?.files[0] && show(dataTransfer.files[0]));
  addEventListener("paste", ({ clipboardData }) => clipboardData?.files[0] && show(clipboardData.files[0]));
}

const ADVICE = {
  "bad-input": "That file is no picture this browser can read. Try a JPEG, PNG or WebP.",
  network: "The model could not be downloaded. Check the connection and choose the model again.",
  integrity: "The model arrived damaged and was not used. Choose it again to fetch it once more.",
  "worker-lost": "The worker stopped. Try the picture again: a fresh one will start.",
  "out-of-memory": "There is not enough memory for this model here.",
};

function fail(error) {
  const code = error instanceof SlimViTError ? error.code : undefined;
  $("classes").replaceChildren();
  $("latency").replaceChildren();
  say(ADVICE[code] ?? error.message, true);
}

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

start().catch(fail);
