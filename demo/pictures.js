// Where pictures come from: samples, files, drops, the clipboard, an address, the camera.
import { openCamera, stopCamera } from "./camera.js";
import { $, element } from "./words.js";

/** File names in samples/ and what to call them; the first is shown on arrival. */
const TITLES = {
  panda: "panda",
  dalmatian: "Dalmatian",
  flamingo: "flamingo",
  strawberry: "strawberry",
  chelsea: "cat",
  umbrella: "umbrella",
  pizza: "pizza",
  starfish: "starfish",
  elephant: "elephant",
  soccer_ball: "soccer ball",
  hedgehog: "hedgehog",
  grand_piano: "grand piano",
  llama: "llama",
  laptop: "laptop",
  scorpion: "scorpion",
  coffee: "coffee",
  china: "pavilion",
  camera: "photographer",
};
export const SAMPLES = Object.keys(TITLES).map((name) => `samples/${name}.jpg`);

export class Pictures {
  /** what is on the page: a still picture, or a running camera */
  still;
  live = false;
  #onChange;
  #asked = 0; // only the newest request may change the page
  #stream;
  /** name of the sample that is shown, if one is */
  #sample;

  /** @param {() => void} onChange called when there is another picture, or none */
  constructor(onChange) {
    this.#onChange = onChange;
    $("file").addEventListener("change", () => {
      if ($("file").files[0]) this.show($("file").files[0]);
      $("file").value = ""; // so that the same file can be chosen again
    });
    $("address-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#open($("address").value);
    });
    $("camera").addEventListener("click", () => (this.live ? this.#leaveCamera() : this.#openCamera()));
    // The package says why it cannot be read when it classifies it.
    $("preview").addEventListener("error", () => ($("preview").hidden = true));
    this.#acceptDrops();
  }

  offerSamples() {
    $("samples").append(...Object.entries(TITLES).map((sample) => this.#sampleButton(sample)));
  }

  showFirst() {
    return this.#showSample(Object.keys(TITLES)[0]);
  }

  /** @param {Blob} blob @param {string} [sample] its name, if it is one */
  show(blob, sample) {
    this.#asked++;
    this.#stopCamera();
    $("picture-error").textContent = "";
    this.still = blob;
    this.#sample = sample;
    for (const button of $("samples").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.sample === sample));
    }
    $("preview").alt = TITLES[sample] ?? blob.name ?? "The picture";
    URL.revokeObjectURL($("preview").src);
    $("preview").src = sample ? `samples/${sample}.jpg` : URL.createObjectURL(blob);
    this.#layOut();
    this.#onChange();
  }

  /** Shows the message about a file that cannot be shown. */
  fail(message) {
    this.still = undefined;
    this.#layOut();
    $("picture-error").textContent = message;
    this.#onChange();
  }

  #layOut() {
    $("preview").hidden = this.live || !this.still;
    $("video").hidden = !this.live;
    $("rate").hidden = !this.live;
    $("invitation").hidden = this.live || Boolean(this.still);
    $("camera").setAttribute("aria-pressed", String(this.live));
    $("camera").textContent = this.live ? "Stop the camera" : "Use the camera";
  }

  async #showSample(name) {
    const mine = ++this.#asked;
    try {
      const response = await fetch(`samples/${name}.jpg`);
      if (!response.ok) throw new Error(`The server answered ${response.status}.`);
      const blob = await response.blob();
      if (mine === this.#asked) this.show(blob, name);
    } catch {
      if (mine === this.#asked)
        this.fail("The sample picture could not be fetched. Check the connection and choose it again.");
    }
  }

  async #open(address) {
    const mine = ++this.#asked;
    $("picture-error").textContent = "";
    try {
      const response = await fetch(address, { mode: "cors", referrerPolicy: "no-referrer" });
      const blob = response.ok && (await response.blob());
      if (mine !== this.#asked) return;
      if (blob) this.show(blob);
      else this.fail(`The server of that address answered ${response.status}: there is no picture. Check the address.`);
    } catch {
      if (mine !== this.#asked) return;
      this.fail(
        "That address cannot be read from here: it is wrong, or its server does not let other pages read its pictures. " +
          "Save the picture and drop it here.",
      );
    }
  }

  async #openCamera() {
    const mine = ++this.#asked;
    $("picture-error").textContent = "";
    try {
      const stream = await openCamera($("video"));
      if (mine !== this.#asked) return stopCamera(stream);
      this.#stream = stream;
      stream.getVideoTracks()[0].addEventListener("ended", () => this.#stream === stream && this.#leaveCamera());
      this.live = true;
      for (const button of $("samples").querySelectorAll("button")) button.setAttribute("aria-pressed", "false");
      this.#layOut();
      this.#onChange();
    } catch (error) {
      if (mine === this.#asked) $("picture-error").textContent = error.message;
    }
  }

  /** Goes back to the previous picture. */
  #leaveCamera() {
    this.#stopCamera();
    this.#layOut();
    this.#onChange();
  }

  #stopCamera() {
    this.live = false;
    if (this.#stream) stopCamera(this.#stream);
    this.#stream = undefined;
    $("video").srcObject = null;
  }

  #sampleButton([name, title]) {
    const button = element("button", { type: "button" });
    button.dataset.sample = name;
    button.setAttribute("aria-pressed", String(name === this.#sample));
    button.append(
      element("img", {
        loading: "lazy",
        decoding: "async",
        width: 64,
        height: 64,
        alt: "",
        src: `samples/${name}.jpg`,
      }),
      element("span", { textContent: title }),
    );
    button.addEventListener("click", () => this.#showSample(name));
    return element("li", {}, button);
  }

  #acceptDrops() {
    for (const type of ["dragover", "dragleave", "drop"]) {
      addEventListener(type, (event) => {
        event.preventDefault();
        $("frame").classList.toggle("over", type === "dragover");
      });
    }
    addEventListener("drop", ({ dataTransfer }) => {
      const address = dataTransfer?.getData("text/uri-list").split("\n")[0];
      if (dataTransfer?.files[0]) this.show(dataTransfer.files[0]);
      else if (address) this.#open(address); // a picture dragged out of another page
    });
    addEventListener("paste", ({ clipboardData }) => clipboardData?.files[0] && this.show(clipboardData.files[0]));
  }
}
