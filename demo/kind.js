// One class of the part that teaches: its name and its pictures.
import { thumbnailOf } from "./search/files.js";
import { $, counted, element } from "./words.js";

/** Milliseconds between two pictures while the button is held. */
const SHOT_EVERY_MS = 200;
/** Size of a camera's picture, which is larger than the input of any of the models. */
const SHOT_SIDE = 320;

export class Kind {
  pictures = [];
  /** pictures that no model was taught with yet */
  fresh = [];
  /** whether a picture that a model was taught with was removed */
  isChanged = false;
  #slots;
  #video;
  #holding = 0;

  /** @param {"first" | "second"} place @param {HTMLVideoElement} video what the camera sees */
  constructor(place, video) {
    this.#video = video;
    this.root = $("kind-template").content.firstElementChild.cloneNode(true);
    this.#slots = Object.fromEntries([...this.root.querySelectorAll("[data-slot]")].map((n) => [n.dataset.slot, n]));
    const { name, files, shoot, legend } = this.#slots;
    legend.textContent = `The ${place} class`;
    name.value = place === "first" ? "this" : "that";
    files.addEventListener("change", () => {
      const chosen = [...files.files];
      files.value = "";
      this.add(chosen);
    });
    const end = () => clearInterval(this.#holding);
    shoot.addEventListener("pointerdown", () => {
      end();
      this.#holding = setInterval(() => this.#shoot(), SHOT_EVERY_MS);
    });
    for (const type of ["pointerup", "pointercancel", "pointerleave"]) shoot.addEventListener(type, end);
    shoot.addEventListener("click", () => this.#shoot()); // the keyboard's too
  }

  get name() {
    return this.#slots.name.value.trim();
  }
  set name(name) {
    this.#slots.name.value = name;
  }
  set canShoot(can) {
    this.#slots.shoot.hidden = !can;
    if (!can) clearInterval(this.#holding);
  }

  /** @param {File[]} files one small copy after the other, so that large pictures are not all decoded at once */
  async add(files) {
    this.pictures.push(...files);
    this.fresh.push(...files);
    this.#showCount();
    for (const file of files) {
      // The package says why a picture cannot be read when a model is taught with it.
      const small = await thumbnailOf(file).catch(() => undefined);
      if (!this.pictures.includes(file)) return; // cleared meanwhile
      const shown = small
        ? element("img", { src: URL.createObjectURL(small), alt: "", width: 44, height: 44 })
        : element("span", { textContent: file.name });
      const button = element("button", { type: "button", ariaLabel: `Remove ${file.name}` }, shown);
      const item = element("li", {}, button);
      button.addEventListener("click", () => this.#remove(file, item));
      const { shots } = this.#slots;
      shots.append(item);
      shots.scrollTop = shots.scrollHeight; // the newest is seen
    }
  }

  #remove(file, item) {
    if (!this.fresh.includes(file)) this.isChanged = true;
    this.pictures = this.pictures.filter((one) => one !== file);
    this.fresh = this.fresh.filter((one) => one !== file);
    item.remove();
    this.#showCount();
  }

  #showCount() {
    this.#slots.count.textContent = this.pictures.length ? counted(this.pictures.length, "picture") : "";
  }

  clear() {
    this.pictures = [];
    this.fresh = [];
    for (const image of this.#slots.shots.querySelectorAll("img")) URL.revokeObjectURL(image.src);
    this.#slots.shots.replaceChildren();
    this.isChanged = false;
    this.#showCount();
  }

  async #shoot() {
    const { videoWidth: width, videoHeight: height } = this.#video;
    if (!width) return; // no frame yet
    const scale = Math.min(1, SHOT_SIDE / Math.min(width, height));
    const canvas = new OffscreenCanvas(Math.round(width * scale), Math.round(height * scale));
    canvas.getContext("2d").drawImage(this.#video, 0, 0, canvas.width, canvas.height);
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.9 });
    await this.add([new File([blob], `${this.name} ${this.pictures.length + 1}.jpg`, { type: "image/jpeg" })]);
  }
}
