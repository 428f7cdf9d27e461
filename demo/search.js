// Search in your pictures: their embeddings are kept in this browser, and a click finds what looks alike. As examples/search does.
import { SlimViT } from "slimvit";
import { SAMPLES } from "./pictures.js";
import { filesOf, keyOf, picturesIn, thumbnailOf } from "./search/files.js";
import { openStore } from "./search/store.js";
import { VectorIndex } from "./search/vectors.js";
import { $, advice, counted, element, isOurDoing } from "./words.js";

const SHOWN = 24;

export class Search {
  #opened;
  #page;
  /** the open model and its vectors: { key, vit, store, index, shown } */
  #open;
  #running = new AbortController();

  /**
   * @param {(load: (folder: string, options: object, title: string) => unknown) => unknown} opened
   * @param {{ pause(): void, resume(): void }} page pauses other computations of the page
   */
  constructor(opened, page) {
    this.#opened = opened;
    this.#page = page;
    const part = $("search-part");
    part.addEventListener("drop", (event) => {
      event.preventDefault();
      event.stopPropagation(); // elsewhere on the page a drop is a picture to label
      this.#learn(filesOf(event.dataTransfer));
    });
    $("search-files").addEventListener("change", () => this.#learn(picturesIn(taken("search-files"))));
    $("search-by").addEventListener("change", () => {
      const [file] = taken("search-by");
      if (file) this.#find(async ({ vit }) => vit.embed(file), file.name);
    });
    $("search-samples").addEventListener("click", () => this.#learn(samples(), SAMPLES.length));
    $("search-stop").addEventListener("click", () => this.#running.abort());
    $("search-clear").addEventListener("click", () => this.#clear());
  }

  /** A key of the model, the weights and the variant, because vectors of different ones cannot be compared. */
  async #current() {
    return this.#opened(async (folder, options, title) => {
      const key = JSON.stringify([folder, options]);
      if (this.#open?.key === key) return this.#open;
      this.#open?.vit.dispose();
      this.#open = undefined;
      const vit = await SlimViT.load(folder, options);
      const { name, dtype, variant } = vit.info;
      const store = await openStore(`pictures of ${name} ${dtype} ${variant}`);
      const open = { key, vit, store, title, index: undefined, shown: new Map() };
      for (const entry of await store.all()) add(open, entry);
      this.#open = open;
      return open;
    });
  }

  /**
   * @param {Iterable<File> | AsyncIterable<File>} files known files are skipped
   * @param {number} [expected] how many there are
   */
  async #learn(files, expected = files.length ?? 0) {
    this.#running.abort();
    this.#running = new AbortController();
    const { signal } = this.#running;
    showRunning(true);
    // Empty places for what will be shown, so that nothing moves when it comes.
    const places = Math.min(SHOWN, expected - $("found").children.length);
    for (let place = 0; place < places; place++) $("found").append(element("li", { className: "place" }));
    $("search-error").textContent = "";
    this.#page.pause();
    const start = performance.now();
    let read = 0;
    try {
      const open = await this.#current();
      const isNew = (file) => !open.index?.has(keyOf(file));
      const inputs = Array.isArray(files) ? files.filter(isNew) : filtered(files, isNew);
      const onProgress = ({ done, failed, total }) => {
        $("search-progress").value = total ? done / total : 0;
        say(`${done}${total ? ` of ${total}` : ""} read${failed ? `, of which ${failed} cannot be` : ""}`);
        read = done;
      };
      for await (const { input, result, error } of open.vit.embedAll(inputs, { signal, onProgress })) {
        if (error) $("search-error").textContent = advice(error);
        if (!result) continue;
        const entry = { key: keyOf(input), name: input.name, vector: result, thumbnail: await thumbnailOf(input) };
        add(open, entry);
        await open.store.put(entry).catch(() => {}); // no space: found until the page is left
      }
      const rate = read / ((performance.now() - start) / 1000);
      const speed = read > 1 ? ` ${rate.toFixed(1)} a second were read.` : "";
      say(`${counted(open.index?.size ?? 0, "picture")} can be searched.${speed} Click one.`);
    } catch (error) {
      say("Stopped.");
      if (!signal.aborted && !isOurDoing(error)) $("search-error").textContent = advice(error);
    } finally {
      if (this.#running.signal === signal) showRunning(false);
      for (const place of $("found").querySelectorAll(".place")) if (!this.#open?.index) place.remove();
      this.#page.resume();
    }
    if (this.#open?.index) this.#show([...this.#open.shown.keys()].slice(-SHOWN).map((key) => ({ key })));
  }

  /** @param {(open: object) => Promise<Float32Array> | Float32Array} query gives a vector @param {string} name of what is looked for */
  async #find(query, name) {
    $("search-error").textContent = "";
    try {
      const open = await this.#current();
      if (!open.index) return say("There are no pictures yet: choose some first.");
      const vector = await query(open);
      const start = performance.now();
      const found = open.index.search(vector, SHOWN);
      const ms = performance.now() - start;
      say(`${counted(open.index.size, "picture")} searched in ${ms.toFixed(1)} ms for what looks like ${name}.`);
      this.#show(found);
      $("found").scrollTo({ left: 0 });
    } catch (error) {
      if (!isOurDoing(error)) $("search-error").textContent = advice(error);
    }
  }

  #show(found) {
    const { shown } = this.#open;
    for (const image of $("found").querySelectorAll("img")) URL.revokeObjectURL(image.src);
    $("found").replaceChildren(
      ...found.map(({ key, similarity }) => {
        const { name, thumbnail } = shown.get(key);
        const words = similarity === undefined ? name : `${name}, similarity ${rounded(similarity)}`;
        const image = element("img", { src: URL.createObjectURL(thumbnail), alt: words, width: 96, height: 96 });
        const button = element("button", { type: "button", title: name }, image);
        if (similarity !== undefined)
          button.append(element("span", { textContent: rounded(similarity), ariaHidden: true }));
        button.addEventListener("click", () => this.#find(({ index }) => vectorOf(index, key), name));
        return element("li", {}, button);
      }),
    );
  }

  async #clear() {
    this.#running.abort();
    $("search-error").textContent = "";
    try {
      const open = await this.#current();
      await open.store.clear();
      open.index = undefined;
      open.shown.clear();
      $("found").replaceChildren();
      say("Nothing is kept.");
    } catch (error) {
      $("search-error").textContent = advice(error);
    }
  }
}

const rounded = (similarity) => similarity.toFixed(2).replace("-0.00", "0.00");

function add(open, { key, name, vector, thumbnail }) {
  open.index ??= new VectorIndex(vector.length);
  open.index.add(key, vector);
  open.shown.set(key, { name, thumbnail });
}

const vectorOf = ({ rows, vectors, dim }, key) => vectors.slice(rows.get(key) * dim, (rows.get(key) + 1) * dim);

/** Takes the files of an input and empties it, so that the same files can be chosen again. */
function taken(id) {
  const files = [...$(id).files];
  $(id).value = "";
  return files;
}

async function* filtered(files, isWanted) {
  for await (const file of files) if (isWanted(file)) yield file;
}

async function* samples() {
  for (const address of SAMPLES) {
    const response = await fetch(address).catch(() => undefined);
    if (!response?.ok)
      throw new Error("The sample pictures could not be fetched. Check the connection, then try again.");
    yield new File([await response.blob()], address.match(/(\w+)\.jpg$/)[1], { type: "image/jpeg", lastModified: 0 });
  }
}

/** The progress bar and its button keep their places while they are not seen. */
function showRunning(isRunning) {
  for (const id of ["search-progress", "search-stop"]) $(id).classList.toggle("coming", !isRunning);
}

function say(text) {
  $("search-status").textContent = text;
}
