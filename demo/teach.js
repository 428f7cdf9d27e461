// Teach it your own two classes: pictures from the camera or from files, a head fitted to them in the worker, and it runs.
import { SlimViT } from "slimvit";
import { openCamera, stopCamera } from "./camera.js";
import { Kind } from "./kind.js";
import { $, advice, counted, element, isOurDoing, megabytes, percent, spoken } from "./words.js";

/** Samples for visitors without pictures: two classes that ImageNet does not have, and pictures to try. */
const numbered = (name, ...numbers) => numbers.map((n) => `teach/${name}-${n}`);
const CLASSES = { sunflower: numbered("sunflower", 1, 2, 3, 4), bonsai: numbered("bonsai", 1, 2, 3, 4) };
const UNSEEN = [
  ...numbered("sunflower", 5),
  ...numbered("bonsai", 5, 6),
  ...numbered("sunflower", 6),
  "panda",
  "coffee",
];
/** Addresses of all of them. */
export const TEACH_SAMPLES = [...Object.values(CLASSES).flat(), ...UNSEEN].map((name) => `samples/${name}.jpg`);

export class Teach {
  #opened;
  #page;
  #kinds;
  /** the taught model, and the names of the classes that it was asked to learn */
  #mine;
  #names = "";
  #base; // title of the model that was taught
  #stream;
  #turn = new AbortController(); // of the runs on what is shown
  #teaching;

  /**
   * @param {(load: (folder: string, options: object, title: string) => unknown) => unknown} opened
   * @param {{ pause(): void, resume(): void }} page pauses other computations of the page
   */
  constructor(opened, page) {
    this.#opened = opened;
    this.#page = page;
    this.#kinds = ["first", "second"].map((place) => new Kind(place, $("teach-video")));
    $("kinds").append(...this.#kinds.map(({ root }) => root));
    $("teach").addEventListener("click", () => this.#teach());
    $("teach-camera").addEventListener("click", () => (this.#stream ? this.#leaveCamera() : this.#openCamera()));
    $("teach-samples").addEventListener("click", () => this.#takeSamples());
    $("teach-again").addEventListener("click", () => this.#startOver());
    $("save").addEventListener("click", () => this.#attempt(() => this.#save()));
    for (const [id, take] of [
      ["try", ([file]) => this.#classify(file)],
      ["saved-files", (files) => this.#attempt(() => this.#open(files))],
    ])
      $(id).addEventListener("change", ({ target }) => {
        const files = [...target.files];
        target.value = "";
        if (files.length) take(files);
      });
  }

  /** Shows the package's error message. */
  async #attempt(work) {
    $("teach-error").textContent = "";
    try {
      await work();
    } catch (error) {
      if (!isOurDoing(error)) $("teach-error").textContent = advice(error);
    }
  }

  async #teach() {
    if (this.#teaching) return this.#teaching.abort();
    this.#teaching = new AbortController();
    this.#turn.abort();
    this.#page.pause();
    $("teach").textContent = "Stop";
    this.#makeRoom();
    await this.#attempt(() => this.#learn(this.#teaching.signal));
    this.#endRoom();
    if (this.#teaching.signal.aborted) say("Stopped.");
    else if ($("teach-error").textContent) say("");
    this.#teaching = undefined;
    $("teach").textContent = this.#mine ? "Teach it more" : "Teach it";
    if (this.#stream) this.#watch();
    else this.#page.resume();
  }

  /** A model that knows these classes learns the new pictures alone. */
  async #learn(signal) {
    const names = JSON.stringify(this.#kinds.map(({ name }) => name));
    if (names !== this.#names || this.#kinds.some(({ isChanged }) => isChanged)) this.#forget();
    const kinds = this.#mine ? this.#kinds.filter((kind) => kind.fresh.length) : this.#kinds;
    const pictures = Object.fromEntries(kinds.map((kind) => [kind.name, kind.fresh]));
    const onProgress = ({ step, done, total }) =>
      say(step === "embed" ? `Looking at picture ${Math.min(done + 1, total)} of ${total} …` : "Fitting the classes …");
    const start = performance.now();
    if (this.#mine) await this.#mine.teach(pictures, { signal, onProgress });
    else {
      const vit = await this.#opened((folder, options, title) => {
        this.#base = title;
        return SlimViT.load(folder, options);
      });
      try {
        this.#mine = await vit.teach(pictures, { signal, onProgress });
      } finally {
        vit.dispose(); // the taught model keeps the worker
      }
    }
    this.#names = names;
    for (const kind of kinds) Object.assign(kind, { fresh: [], isChanged: false });
    this.#showTaught((performance.now() - start) / 1000);
  }

  #showTaught(seconds) {
    const { pictures, accuracy, n } = this.#mine.info.taught;
    const total = pictures.reduce((sum, count) => sum + count, 0);
    const how = seconds === undefined ? "Loaded" : `Taught in ${seconds.toFixed(1)} s`;
    say(
      `${how}: ${counted(total, "picture")} on ${this.#base}. Each held back from a fit to the others, ` +
        `${Math.round(accuracy * n)} of ${n} got their class.`,
    );
    $("taught").hidden = $("teach-again").hidden = false;
    $("saved").replaceChildren();
    this.#showFrame();
    this.#offerUnseen();
  }

  /** Takes the place of the result at the click, so that nothing moves when the result comes. */
  #makeRoom() {
    if (this.#mine) return;
    $("taught").hidden = $("teach-again").hidden = $("teach-frame").hidden = false;
    for (const part of [$("taught"), $("teach-again")]) part.classList.add("coming");
    this.#offerUnseen();
  }

  #endRoom() {
    for (const part of [$("taught"), $("teach-again")]) part.classList.remove("coming");
    $("taught").hidden = $("teach-again").hidden = !this.#mine;
    this.#showFrame();
  }

  #offerUnseen() {
    if (!$("unseen").children.length)
      $("unseen").append(...UNSEEN.map((name) => element("li", {}, this.#sampleButton(name))));
  }

  #sampleButton(name) {
    const image = element("img", {
      src: `samples/${name}.jpg`,
      alt: titleOf(name),
      width: 56,
      height: 56,
      loading: "lazy",
    });
    const button = element("button", { type: "button" }, image);
    button.addEventListener("click", () => this.#attempt(async () => this.#classify(await fetchSample(name))));
    return button;
  }

  #classify(picture) {
    return this.#attempt(async () => {
      this.#leaveCamera();
      const { signal } = this.#nextTurn();
      URL.revokeObjectURL($("trial").src);
      $("trial").src = URL.createObjectURL(picture);
      $("trial").alt = picture.name ?? "The picture";
      this.#showFrame();
      this.#show(await this.#mine.classify(picture, { signal }));
    });
  }

  /** In front of the camera, every frame. */
  #watch() {
    if (!this.#mine) return;
    const { signal } = this.#nextTurn();
    this.#attempt(async () => {
      for await (const answer of this.#mine.stream($("teach-video"), { signal })) this.#show(answer);
    });
  }

  #nextTurn() {
    this.#turn.abort();
    this.#turn = new AbortController();
    return this.#turn;
  }

  #show({ classes, unknown }) {
    const [best] = classes;
    $("taught-verdict").textContent = unknown ? "none of these" : spoken(best.label);
    $("taught-bars").replaceChildren(
      ...this.#mine.info.labels.map(({ label }) => {
        const { score } = classes.find((one) => one.label === label) ?? { score: 0 };
        const item = element("li", {}, element("span", { textContent: spoken(label) }));
        item.append(element("span", { className: "share", textContent: unknown ? "–" : percent(score) }));
        item.style.setProperty("--score", unknown ? 0 : score);
        return item;
      }),
    );
  }

  #showFrame() {
    $("teach-frame").hidden = !this.#stream && !this.#mine;
    $("teach-video").hidden = !this.#stream;
    $("trial").hidden = Boolean(this.#stream) || !$("trial").src;
    $("trial-words").hidden = Boolean(this.#stream) || !$("trial").hidden;
    $("teach-camera").textContent = this.#stream ? "Stop the camera" : "Use the camera";
    $("teach-camera").setAttribute("aria-pressed", String(Boolean(this.#stream)));
    for (const kind of this.#kinds) kind.canShoot = Boolean(this.#stream);
  }

  #openCamera() {
    return this.#attempt(async () => {
      this.#stream = await openCamera($("teach-video"));
      this.#page.pause();
      this.#showFrame();
      this.#watch();
    });
  }

  #leaveCamera() {
    if (!this.#stream) return;
    this.#turn.abort();
    stopCamera(this.#stream);
    $("teach-video").srcObject = null;
    this.#stream = undefined;
    this.#showFrame();
    this.#page.resume();
  }

  async #takeSamples() {
    this.#startOver();
    this.#makeRoom();
    await this.#attempt(async () => {
      for (const [i, [name, samples]] of Object.entries(CLASSES).entries()) {
        this.#kinds[i].name = name;
        await this.#kinds[i].add(await Promise.all(samples.map(fetchSample)));
      }
      await this.#teach();
      if (this.#mine) await this.#classify(await fetchSample(UNSEEN[0]));
    });
    this.#endRoom();
  }

  #forget() {
    this.#turn.abort();
    this.#mine?.dispose();
    this.#mine = undefined;
    for (const kind of this.#kinds) kind.fresh = [...kind.pictures];
  }

  #startOver() {
    this.#leaveCamera();
    this.#forget();
    for (const kind of this.#kinds) kind.clear();
    this.#names = "";
    $("trial").removeAttribute("src");
    $("taught").hidden = $("teach-again").hidden = true;
    $("taught-bars").replaceChildren();
    $("taught-verdict").textContent = "";
    $("teach").textContent = "Teach it";
    this.#showFrame();
    say("");
  }

  async #save() {
    const files = await this.#mine.save({ name: "my-classes" });
    $("saved").replaceChildren(
      ...files.map((file) => {
        const link = element("a", { href: URL.createObjectURL(file), download: file.name, textContent: file.name });
        return element(
          "li",
          {},
          link,
          ` ${file.size < 1e5 ? `${Math.ceil(file.size / 1e3)} kB` : megabytes(file.size)}`,
        );
      }),
      element("li", { textContent: "Keep them in one folder: it is a model like any other." }),
    );
  }

  /** Files of an earlier visit. */
  async #open(files) {
    const mine = await SlimViT.load(files);
    if (!mine.info.taught) {
      mine.dispose();
      throw new Error(`${mine.info.name} was not taught. Choose all files of a model that was saved here.`);
    }
    this.#startOver();
    this.#mine = mine;
    this.#base = mine.info.name;
    for (const [i, kind] of this.#kinds.entries()) kind.name = mine.info.labels[i].label;
    this.#names = JSON.stringify(this.#kinds.map(({ name }) => name));
    $("teach").textContent = "Teach it more";
    this.#showTaught();
  }
}

/** "teach/bonsai-5" → "bonsai" */
const titleOf = (name) => spoken(name).replace(/^teach\/(\w+)-\d$/, "$1");

async function fetchSample(name) {
  const response = await fetch(`samples/${name}.jpg`).catch(() => undefined);
  if (!response?.ok) throw new Error("The sample pictures could not be fetched. Check the connection, then try again.");
  return new File([await response.blob()], `${name.split("/").at(-1)}.jpg`, { type: "image/jpeg" });
}

function say(text) {
  $("teach-status").textContent = text;
}
