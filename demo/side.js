// One side of the comparison: a model, its card, and how long its last runs took.
import { SlimViT } from "slimvit";
import {
  $,
  accuracyOf,
  advice,
  counted,
  element,
  isOurDoing,
  macs,
  megabytes,
  millions,
  milliseconds,
  percent,
  quantile,
  selected,
  spoken,
} from "./words.js";

/** Where the page serves the optional packages. */
export const ENGINE_URLS = {
  "onnxruntime-web": "ort/ort.wasm.bundle.min.mjs",
  "onnxruntime-web/webgpu": "ort/ort.webgpu.bundle.min.mjs",
};
const KEPT_RUNS = 40;

export class Side {
  /** inference times of the last runs, oldest first */
  runs = [];
  /** @type {SlimViT | undefined} */
  vit;
  /** the last answer */
  answer;
  #loading = new AbortController();
  #slots;

  /**
   * @param {"dense" | "slim"} role
   * @param {{ retry(): void, changed(side: Side): void }} page functions for the card; `changed` is called when another
   * variant answers
   */
  constructor(role, { retry, changed }) {
    this.role = role;
    this.changed = changed;
    this.root = $("side-template").content.firstElementChild.cloneNode(true);
    this.root.classList.add(role);
    this.root.querySelector("h3").textContent = role === "dense" ? "Dense" : "Slim";
    this.#slots = Object.fromEntries([...this.root.querySelectorAll("[data-slot]")].map((n) => [n.dataset.slot, n]));
    this.#slots.retry.addEventListener("click", retry);
    this.root.querySelector("progress").setAttribute("aria-label", `Download of the ${role} model`);
    this.#slots.classes.setAttribute("aria-label", `Most likely classes, ${role} model`);
    this.#slots.loading.hidden = true;
  }

  /** Its progress, its error and the button to try again, for the page to place elsewhere than on the card. */
  get waiting() {
    return [this.#slots.loading, this.#slots.error, this.#slots.retry];
  }

  /**
   * Loads a model in place of the previous one.
   *
   * @returns {Promise<boolean>} whether this model is the one now loaded; false when it was replaced meanwhile
   * @throws SlimViTError when it cannot be loaded; the card says so
   */
  async load({ folder, title, manifest }, options) {
    this.unload();
    const loading = (this.#loading = new AbortController());
    this.manifest = manifest;
    this.root.querySelector("h3").textContent = title;
    this.#slots.loading.hidden = false;
    this.#showProgress(0, "Connecting …");
    try {
      const vit = await SlimViT.load(`models/${folder}/`, {
        ...options,
        engineUrls: options.engine === "auto" ? undefined : ENGINE_URLS, // auto would download all that are named
        signal: loading.signal,
        onProgress: ({ loadedBytes, totalBytes, cached }) => {
          if (loading.signal.aborted) return;
          const bytes = `${megabytes(loadedBytes)} of ${megabytes(totalBytes)}`;
          const done = cached ? "Kept from last time. Starting …" : "Starting …";
          this.#showProgress(loadedBytes / totalBytes, loadedBytes === totalBytes ? done : bytes);
        },
        onVariant: () => !loading.signal.aborted && this.vit && this.#becomeVariant(),
      });
      if (loading.signal.aborted) {
        vit.dispose();
        return false;
      }
      this.vit = vit;
      this.#showFacts();
      return true;
    } catch (error) {
      if (loading.signal.aborted) return false;
      this.fail(error);
      throw error;
    } finally {
      if (!loading.signal.aborted) this.#slots.loading.hidden = true;
    }
  }

  /** Ends a load or a run in flight, and empties the card. */
  unload() {
    this.#loading.abort();
    this.vit?.dispose();
    this.vit = undefined;
    this.answer = undefined;
    this.runs = [];
    this.fail();
    this.#slots.loading.hidden = true;
    this.#slots.classes.replaceChildren();
    this.#slots.facts.replaceChildren();
    this.#slots.median.textContent = "–";
    this.#slots.spread.textContent = "";
  }

  /** @param {string} variant answers from now on */
  async use(variant) {
    const { vit } = this;
    await vit.use(variant);
    if (this.vit === vit) this.#becomeVariant();
  }

  #becomeVariant() {
    this.runs = [];
    this.#showFacts();
    this.changed(this);
  }

  /** A worker that was lost is given one more try, on a fresh worker. */
  async classify(picture, signal) {
    const { vit } = this;
    try {
      const answer = await vit.classify(picture, { signal }).catch((error) => {
        if (error.code !== "worker-lost") throw error;
        return vit.classify(picture, { signal });
      });
      if (this.vit !== vit) return;
      this.show(answer);
    } catch (error) {
      if (this.vit === vit && !isOurDoing(error) && error.code !== "bad-input") this.fail(error);
      throw error;
    }
  }

  /** Forgets the answer, not the times. */
  clear() {
    this.answer = undefined;
    this.#slots.classes.replaceChildren();
  }

  /** @param {Error} [error] none takes the message away */
  fail(error) {
    this.#slots.error.textContent = error ? advice(error) : "";
    this.#slots.retry.hidden = !error;
  }

  get median() {
    return this.runs.length ? quantile(this.runs, 0.5) : undefined;
  }

  /** Shows an answer of this model. */
  show(answer) {
    this.fail();
    this.answer = answer;
    this.runs.push(answer.latencyMs.inference);
    if (this.runs.length > KEPT_RUNS) this.runs.shift();
    const [low, high] = [quantile(this.runs, 0.1), quantile(this.runs, 0.9)].map(milliseconds);
    this.#slots.median.textContent = milliseconds(this.median);
    this.#slots.spread.textContent =
      `${counted(this.runs.length, "run")}${this.runs.length > 1 ? `, ${low}–${high} ms` : ""}; ` +
      `+ ${milliseconds(answer.latencyMs.preprocess)} ms to prepare the picture`;
    showBars(this.#slots.classes, answer.classes);
  }

  #showProgress(share, words) {
    this.#slots.loading.querySelector("progress").value = share;
    this.#slots.bytes.textContent = words;
  }

  #showFacts() {
    const { info } = this.vit;
    const record = accuracyOf(selected(this.manifest, info.variant).metrics, info.dtype);
    const pairs = [
      ["MACs", macs(info.macs)],
      ["download", megabytes(info.sizeBytes)],
      ["parameters", millions(info.params)],
      ["classes", String(info.labels.length)],
      ["weights", info.dtype],
      ["engine", `${info.engine}, ${counted(info.threads, "thread")}`],
      ...(record ? [["top-1", percent(record.top1, 1), `on ${record.n} pictures of ${record.data}`]] : []),
    ];
    this.#slots.facts.replaceChildren(
      ...pairs.map(([term, value, title = ""]) =>
        element("div", { title }, element("dt", { textContent: term }), element("dd", { textContent: value })),
      ),
    );
  }
}

/** Writes into the rows that are there: nothing flickers, and bars glide, when frames arrive. */
function showBars(list, classes) {
  while (list.children.length > classes.length) list.lastElementChild.remove();
  while (list.children.length < classes.length) {
    list.append(element("li", {}, element("span"), element("span", { className: "share" })));
  }
  classes.forEach(({ label, score }, i) => {
    const item = list.children[i];
    item.firstChild.textContent = spoken(label);
    item.lastChild.textContent = percent(score, 1);
    item.style.setProperty("--score", score);
  });
}
