// What is left of the model, and what it looks at: keep-lists over the picture, head and MLP widths, attention, times.
import { drawGroups, membersOf } from "./groups.js";
import { $, counted, element, isOurDoing, milliseconds, quantile, selected } from "./words.js";

const FADE_MS = 220;
const STEP_MS = 650;
const KEPT_LOOKS = 9;

export class Insight {
  #slim;
  #dense;
  /** what the model sees of the picture: the resized and cropped square */
  #crop = document.createElement("canvas");
  #hasPicture = false;
  #attention;
  /** of a model that merges: for each block and patch the token that stands for it */
  #groups;
  #blockMs = [];
  /** how much each patch is covered now, and will be: 0 clear, 1 dropped */
  #cover = new Float32Array(0);
  #target = new Float32Array(0);
  #fading = 0;
  #playing = 0;
  /** whether it is on the screen or close to it; before that nothing is computed or drawn */
  #isNear = false;
  /** the patch under the pointer or the finger */
  #pointed;

  /** @param {() => void} onNear called when it has come near the screen and has nothing to show yet */
  constructor(onNear) {
    const watch = ([{ isIntersecting }]) => {
      this.#isNear = isIntersecting;
      if (!isIntersecting) return;
      this.redraw();
      if (!this.#blockMs.length) onNear();
    };
    new IntersectionObserver((entries) => watch(entries.slice(-1)), { rootMargin: "300px" }).observe($("patches"));
    $("depth").addEventListener("input", () => this.#select());
    $("overlay").addEventListener("change", () => this.#select());
    $("play").addEventListener("click", () => (this.#playing ? this.#stop() : this.#play()));
    for (const type of ["pointermove", "pointerdown"])
      $("patches").addEventListener(type, (event) => this.#point(event));
    $("patches").addEventListener("pointerleave", () => this.#point());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  /** @param manifest @param [dense] its baseline's, if there is one @param {string} [variant] the one that answers */
  show(manifest, dense, variant) {
    const slim = (this.#slim = selected(manifest, variant));
    this.#dense = selected(dense ?? manifest);
    $("outlines").textContent =
      `outlines: ${dense || !(manifest.variants?.length > 1) ? "the dense model" : "the largest variant"}`;
    this.#attention = undefined;
    this.#groups = undefined;
    this.#blockMs = [];
    const isMerging = slim.blocks.some(({ merge }) => merge > 0);
    $("groups-choice").hidden = !isMerging;
    $("overlay").querySelector(`[value=${isMerging ? "groups" : "patches"}]`).checked = true;
    const [height, width] = slim.imageSize;
    this.grid = { columns: width / slim.patchSize, rows: height / slim.patchSize };
    this.#cover = new Float32Array(this.grid.columns * this.grid.rows);
    this.#target = this.#cover.slice();
    Object.assign($("depth"), { max: slim.blocks.length });
    $("blocks").tBodies[0].replaceChildren(...slim.blocks.map((_, i) => this.#row(i)));
    this.#select();
  }

  /** @param {ImageBitmap} picture any size */
  setPicture(picture) {
    const { resize, crop } = this.#slim.preprocess;
    const scale = Math.min(picture.width, picture.height) / resize;
    const [height, width] = crop.map((side) => side * scale);
    const { width: w, height: h } = $("patches");
    Object.assign(this.#crop, { width: w, height: h });
    const context = this.#crop.getContext("2d");
    context.drawImage(picture, (picture.width - width) / 2, (picture.height - height) / 2, width, height, 0, 0, w, h);
    this.#hasPicture = true;
    this.redraw();
  }

  /** One run that gives attention and times. An engine that cannot give them is not an error. */
  async look(vit, picture, signal) {
    if (!this.#isNear) return;
    try {
      const { attention, blockMs, groups } = await vit.classify(picture, { explain: true, profile: true, signal });
      this.#attention = attention;
      this.#groups = groups;
      this.#blockMs = [...this.#blockMs, blockMs].slice(-KEPT_LOOKS);
      $("insight-note").textContent = "";
    } catch (error) {
      if (error.code !== "unsupported" && !isOurDoing(error)) throw error;
      if (isOurDoing(error)) return;
      this.#attention = this.#groups = undefined;
      this.#blockMs = [];
      $("insight-note").textContent =
        `${vit.info.engine} tells neither attention nor times of single blocks; choose simd to see them.`;
    }
    this.#showTimes();
    this.#showTokens();
    this.#select(false);
  }

  redraw() {
    if (!this.#hasPicture || !this.#isNear) return;
    const { width, height } = $("patches");
    const context = $("patches").getContext("2d");
    context.globalAlpha = 1;
    context.drawImage(this.#crop, 0, 0);
    context.fillStyle = getComputedStyle($("patches")).backgroundColor;
    const { columns, rows } = this.grid;
    const [w, h] = [width / columns, height / rows];
    this.#cover.forEach((cover, i) => {
      if (cover < 0.01) return;
      context.globalAlpha = cover;
      context.fillRect((i % columns) * w, Math.floor(i / columns) * h, w, h);
    });
    const groups = this.#shownGroups();
    const ground = getComputedStyle($("patches")).backgroundColor;
    if (groups) drawGroups(context, this.#crop, groups, this.grid, { ground, pointed: this.#pointed });
  }

  /** The token at the pointer stands out with all its patches, which may lie apart. */
  #point(event) {
    const { columns, rows } = this.grid ?? {};
    const { clientWidth, clientHeight } = $("patches");
    const at = (share, count) => Math.min(count - 1, Math.max(0, Math.floor(share * count)));
    const patch =
      event && columns && at(event.offsetX / clientWidth, columns) + columns * at(event.offsetY / clientHeight, rows);
    if (patch === this.#pointed) return;
    this.#pointed = patch;
    if (this.#shownGroups()) this.redraw();
  }

  /** The groups after the selected block, where they are wanted and known. */
  #shownGroups() {
    if ($("overlay").querySelector(":checked").value !== "groups") return;
    return this.#groups?.[$("depth").valueAsNumber - 1];
  }

  #select(isFading = true) {
    if (!this.#slim) return;
    const at = $("depth").valueAsNumber - 1;
    const { blocks, prefixTokens } = this.#slim;
    const { headDims, mlpHidden, keepIdx } = blocks[at];
    const kept = keepIdx.filter((token) => token >= prefixTokens).map((token) => token - prefixTokens);
    const showsAttention = $("overlay").querySelector(":checked").value === "attention";
    const map = showsAttention ? this.#attention?.[at] : undefined;
    this.#target.fill(map ? 0.97 : 0.88);
    if (map?.length) {
      const weights = map.subarray(keepIdx.length - kept.length);
      const most = weights.reduce((a, b) => Math.max(a, b), 1e-9);
      for (const [k, patch] of kept.entries()) this.#target[patch] = 0.85 * (1 - Math.sqrt(weights[k] / most));
    } else for (const patch of kept) this.#target[patch] = 0;
    const groups = this.#shownGroups();
    for (const [patch, token] of groups?.entries() ?? []) this.#target[patch] = token < 0 ? 0.88 : 0;
    this.#fade(isFading);

    const total = this.#target.length;
    const words = `Block ${at + 1} of ${blocks.length} works on ${kept.length} of ${total} patches, with ${headWords(headDims)} and ${mlpHidden} of ${this.#dense.blocks[at].mlpHidden} MLP units.`;
    $("depth-value").textContent = `${at + 1}`;
    const said = groups ? groupWords(groups, at) : words;
    $("depth").setAttribute("aria-valuetext", said);
    $("depth-words").textContent = said;
    $("patches").setAttribute(
      "aria-label",
      groups
        ? `The picture in areas of patches that one token stands for after block ${at + 1}`
        : showsAttention
          ? `The picture, brighter where the class token looks in block ${at + 1}`
          : `The picture with the ${total - kept.length} patches that block ${at + 1} no longer sees faded out`,
    );
    for (const [i, row] of [...$("blocks").tBodies[0].rows].entries()) row.classList.toggle("current", i === at);
  }

  #fade(isFading) {
    cancelAnimationFrame(this.#fading);
    if (!isFading || matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.#cover.set(this.#target);
      return this.redraw();
    }
    const [from, start] = [this.#cover.slice(), performance.now()];
    const step = (now) => {
      const share = Math.min(1, Math.max(0, (now - start) / FADE_MS));
      this.#cover = from.map((v, i) => v + (this.#target[i] - v) * share);
      this.redraw();
      if (share < 1) this.#fading = requestAnimationFrame(step);
    };
    this.#fading = requestAnimationFrame(step);
  }

  #play() {
    const last = Number($("depth").max);
    if ($("depth").valueAsNumber === last) $("depth").value = 1;
    else $("depth").value = $("depth").valueAsNumber + 1;
    this.#select();
    this.#playing = setInterval(() => {
      $("depth").value = $("depth").valueAsNumber + 1;
      this.#select();
      if ($("depth").valueAsNumber === last) this.#stop();
    }, STEP_MS);
    this.#showPlaying();
  }

  #stop() {
    clearInterval(this.#playing);
    this.#playing = 0;
    this.#showPlaying();
  }

  #showPlaying() {
    $("play").textContent = this.#playing ? "❚❚" : "▶";
    $("play").setAttribute("aria-label", this.#playing ? "Pause" : "Play through the depth");
  }

  #row(i) {
    const [slim, dense] = [this.#slim.blocks[i], this.#dense.blocks[i]];
    const patches = ({ keepIdx }) => keepIdx.length - this.#slim.prefixTokens;
    const heads = element("div", { className: "heads" });
    // A block that lost a head: which of the dense heads it was is not on file, so the survivors stand first.
    heads.append(...dense.headDims.map((dim, k) => bar((slim.headDims[k] ?? 0) / dim)));
    const row = element(
      "tr",
      {},
      Object.assign(element("th", { textContent: `${i + 1}` }), { scope: "row" }),
      element("td", {}, heads, element("small", { textContent: slim.headDims.join(" · ") || "none" })),
      element("td", {}, bar(slim.mlpHidden / dense.mlpHidden), element("small", { textContent: `${slim.mlpHidden}` })),
      element("td", {}, bar(patches(slim) / patches(dense)), element("small", { textContent: `${patches(slim)}` })),
      element("td", { className: "time" }, bar(0, "time"), element("small", { textContent: "–" })),
    );
    row.addEventListener("click", () => {
      $("depth").value = i + 1;
      this.#select();
    });
    return row;
  }

  /** Where patches merge, fewer tokens enter a block than there are patches left. */
  #showTokens() {
    if (!this.#groups) return;
    const most = this.grid.columns * this.grid.rows;
    [...$("blocks").tBodies[0].rows].forEach((row, i) => {
      const tokens = i ? membersOf(this.#groups[i - 1]).size : most;
      const cell = row.cells[3];
      cell.firstElementChild.style.setProperty("--share", tokens / most);
      cell.lastElementChild.textContent = `${tokens}`;
    });
  }

  #showTimes() {
    const times = this.#slim.blocks.map(
      (_, i) =>
        this.#blockMs.length &&
        quantile(
          this.#blockMs.map((ms) => ms[i]),
          0.5,
        ),
    );
    const most = Math.max(...times, 1e-9);
    [...$("blocks").tBodies[0].rows].forEach((row, i) => {
      const cell = row.lastElementChild;
      cell.firstElementChild.style.setProperty("--share", times[i] / most);
      cell.lastElementChild.textContent = times[i] ? milliseconds(times[i]) : "–";
    });
  }
}

function groupWords(groups, at) {
  const members = [...membersOf(groups).values()];
  const merged = members.filter(({ length }) => length > 1).length;
  const patches = members.reduce((sum, { length }) => sum + length, 0);
  const dropped = groups.length - patches;
  return (
    `After block ${at + 1}, ${members.length} tokens stand for ${patches} patches; ${merged} of them for more than one` +
    (dropped ? `. ${dropped} patches were dropped.` : ".")
  );
}

function bar(share, className = "") {
  const node = element("div", { className: `bar ${className}` });
  node.style.setProperty("--share", share);
  return node;
}

function headWords(headDims) {
  if (!headDims.length) return "no attention heads";
  return `${counted(headDims.length, "head")} of ${headDims.join(", ")} channels`;
}
