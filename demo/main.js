// The demo: the public package, used as any page would.
import { SlimViT, SlimViTError } from "slimvit";

const SAMPLES =
  "panda pizza dalmatian chelsea flamingo strawberry coffee umbrella grand_piano laptop starfish llama elephant soccer_ball hedgehog scorpion flower china rocket astronaut revolver".split(
    " ",
  );

const $ = (id) => document.getElementById(id);
let vit; // the loaded model
let shown; // the picture on the page: a Blob
let turn = 0; // only the newest load or classification may write to the page

async function start() {
  for (const name of SAMPLES) $("samples").append(sampleButton(name));
  const models = await (await fetch("models/index.json")).json();
  for (const { folder, title } of models) $("model").append(new Option(title, folder));
  $("model").addEventListener("change", load);
  $("engine").addEventListener("change", load);
  $("file").addEventListener("change", () => $("file").files[0] && show($("file").files[0]));
  acceptDrops();
  await load();
}

async function load() {
  const mine = ++turn;
  vit?.dispose();
  vit = undefined;
  $("classes").replaceChildren();
  $("latency").replaceChildren();
  $("facts").replaceChildren();
  say("Loading the model …");
  $("progress").hidden = false;
  try {
    const loaded = await SlimViT.load(`models/${$("model").value}/`, {
      engine: $("engine").value,
      engineUrls: { "onnxruntime-web": "ort/ort.wasm.bundle.min.mjs" },
      onProgress: ({ loadedBytes, totalBytes, cached }) => {
        if (mine !== turn) return;
        $("progress").value = loadedBytes / totalBytes;
        say(
          cached
            ? "The model is in this browser's cache."
            : `Loading: ${megabytes(loadedBytes)} of ${megabytes(totalBytes)}`,
        );
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
    if (mine === turn) $("progress").hidden = true;
  }
}

async function show(blob) {
  shown = blob;
  URL.revokeObjectURL($("preview").src);
  $("preview").src = URL.createObjectURL(blob);
  $("preview").hidden = false;
  $("invitation").hidden = true;
  await classify();
}

async function classify() {
  if (!vit) return say("The model is still loading; your picture is next.");
  const mine = ++turn;
  say("Looking …");
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
  }
}

function showFacts(info) {
  const heads = info.blocks.reduce((sum, { headDims }) => sum + headDims.length, 0);
  const channels = info.blocks.reduce((sum, { headDims }) => sum + headDims.reduce((a, b) => a + b, 0), 0);
  const tokens = info.blocks.map(({ keepIdx }) => keepIdx.length);
  figures("facts", [
    ["download", `${megabytes(info.sizeBytes)} (${info.dtype})`],
    ["multiply-accumulates", `${(info.macs / 1e9).toFixed(2)} G`],
    ["parameters", `${(info.params / 1e6).toFixed(2)} M`],
    ["heads", `${heads} in ${info.blocks.length} blocks, ${channels} channels`],
    ["MLP units", info.blocks.reduce((sum, { mlpHidden }) => sum + mlpHidden, 0).toLocaleString("en")],
    ["tokens, first to last block", `${tokens[0]} → ${tokens.at(-1)}`],
  ]);
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

function sampleButton(name) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.sample = name;
  button.append(
    Object.assign(new Image(), { src: `samples/${name}.jpg`, alt: name.replace("_", " "), loading: "lazy" }),
  );
  button.addEventListener("click", async () => {
    try {
      await show(await (await fetch(`samples/${name}.jpg`)).blob());
    } catch (error) {
      fail(error);
    }
  });
  item.append(button);
  return item;
}

function acceptDrops() {
  const drop = $("drop");
  for (const type of ["dragover", "dragleave", "drop"]) {
    addEventListener(type, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", type === "dragover");
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
