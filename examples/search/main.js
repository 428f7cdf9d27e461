import { SlimViT } from "slimvit";
import { filesOf, keyOf, picturesIn, thumbnailOf } from "./files.js";
import { openStore } from "./store.js";
import { VectorIndex } from "./vectors.js";

const RESULTS = 20;
const address = new URLSearchParams(location.search);
const $ = (id) => document.getElementById(id);
/** What a result shows, by its key. */
const shown = new Map();

/** The model, and what earlier visits have left. `?model=URL` takes another one. */
async function open() {
  const vit = await SlimViT.load(address.get("model") ?? "/models/deit-tiny-slim/");
  const store = await openStore(`pictures of ${vit.info.name} ${vit.info.dtype} ${vit.info.variant}`);
  let index;
  const add = ({ key, name, vector, thumbnail }) => {
    index ??= new VectorIndex(vector.length);
    index.add(key, vector);
    shown.set(key, { name, thumbnail });
  };
  for (const entry of await store.all()) add(entry);
  const forget = () => {
    index = undefined;
    shown.clear();
    return store.clear();
  };
  return { vit, store, add, forget, index: () => index };
}

const opening = open();
let running = new AbortController();

/** Embeds the pictures that are not known yet. @param {Iterable<File> | AsyncIterable<File>} files */
async function learn(files) {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  $("progress").hidden = $("stop").hidden = false;
  try {
    const { vit, store, add, index } = await opening;
    async function* unknown() {
      for await (const file of files) if (!index()?.has(keyOf(file))) yield file;
    }
    const inputs = Array.isArray(files) ? files.filter((file) => !index()?.has(keyOf(file))) : unknown();
    const onProgress = ({ done, failed, total }) => {
      $("progress").value = total ? done / total : 0;
      status(
        `${total ? `${done} of ${pictures(total)}` : pictures(done)} read${failed ? `, ${failed} of them cannot be` : ""}`,
      );
    };
    for await (const { input, result } of vit.embedAll(inputs, { signal, onProgress })) {
      if (!result) continue; // counted in `failed`
      const entry = { key: keyOf(input), name: input.name, vector: result, thumbnail: await thumbnailOf(input) };
      add(entry);
      await store.put(entry);
    }
    status(`${pictures(index()?.size ?? 0)} can be searched.`);
  } catch (error) {
    if (!signal.aborted) status(error.message); // written for people
  } finally {
    if (running.signal === signal) $("progress").hidden = $("stop").hidden = true;
  }
}

/** @param {() => Promise<ArrayLike<number>> | ArrayLike<number>} query gives a vector */
async function find(query) {
  try {
    const { index } = await opening;
    if (!index()) return status("There are no pictures yet: drop a folder first.");
    const vector = await query();
    const start = performance.now();
    const found = index().search(vector, RESULTS);
    const ms = performance.now() - start;
    status(`${pictures(index().size)} searched in ${ms.toFixed(1)} ms.`);
    show(found);
  } catch (error) {
    status(error.message);
  }
}

function show(found) {
  for (const image of $("results").querySelectorAll("img")) URL.revokeObjectURL(image.src);
  $("results").replaceChildren(
    ...found.map(({ key, similarity }) => {
      const { name, thumbnail } = shown.get(key);
      const image = Object.assign(new Image(), { src: URL.createObjectURL(thumbnail), alt: name });
      const [item, figure, caption] = ["li", "figure", "figcaption"].map((tag) => document.createElement(tag));
      caption.textContent = `${name}, ${similarity.toFixed(2)}`;
      figure.append(image, caption);
      item.append(figure);
      return item;
    }),
  );
}

const pictures = (count) => `${count} picture${count === 1 ? "" : "s"}`;

function status(text) {
  $("status").value = text;
}

/** Of a CLIP: `?texts=URL` names a JSON file with the text encoder's vector of each word. */
async function offerWords() {
  if (!address.has("texts")) return;
  const texts = await (await fetch(address.get("texts"))).json();
  $("texts").replaceChildren(
    ...Object.keys(texts).map((value) => Object.assign(document.createElement("option"), { value })),
  );
  $("by-words").hidden = false;
  $("words").addEventListener("change", () => {
    const vector = texts[$("words").value];
    if (vector) find(() => vector);
    else status(`There is no vector for "${$("words").value}"; choose one of the list.`);
  });
}

$("folder").addEventListener("change", () => learn(picturesIn($("folder").files)));
$("picture").addEventListener("change", () => find(async () => (await opening).vit.embed($("picture").files[0])));
$("stop").addEventListener("click", () => {
  running.abort();
  status("Stopped. What was read can be searched.");
});
$("clear").addEventListener("click", async () => {
  running.abort();
  await (await opening).forget();
  show([]);
  status("Nothing is kept.");
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  learn(filesOf(event.dataTransfer));
});
offerWords().catch((error) => status(`The words cannot be read: ${error.message}`));
opening.then(
  ({ index }) => status(index() ? `${pictures(index().size)} of earlier visits can be searched.` : "Ready."),
  (error) => status(error.message),
);
