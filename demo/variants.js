// The slider of the variants: one file of weights, several networks, changed while a camera runs.
import {
  $,
  accuracyOf,
  advice,
  bySize,
  element,
  isOurDoing,
  macs,
  milliseconds,
  percent,
  quantile,
  spoken,
} from "./words.js";

/** Milliseconds for a frame, from its call to its answer, where the device chooses: 30 frames a second. */
const BUDGET_MS = 33;
const KEPT_RUNS = 30;
/** Runs of each variant, when all are timed. The first run has so little effect that it is not left out. */
const TIMED_RUNS = 5;

export class Variants {
  #slim;
  #restart;
  #info;
  /** of `#info`, the smallest first */
  #variants = [];
  /** milliseconds of inference by variant, oldest first */
  #runs = new Map();
  /** the variant at which the slider stands; the newest choice wins */
  #wanted;
  #isChanging = false;

  /** @param {import("./side.js").Side} slim @param {() => void} restart the runs on what is shown */
  constructor(slim, restart) {
    this.#slim = slim;
    this.#restart = restart;
    $("variant").addEventListener("input", () => this.#want(this.#named($("variant").valueAsNumber)));
    $("variant-auto").addEventListener("change", () => {
      $("variant").disabled = $("variant-auto").checked;
      this.#restart();
    });
    $("variants-camera").addEventListener("click", () => $("camera").click());
    $("variants-time").addEventListener("click", () => this.#timeAll());
  }

  /** @param [info] the model's; none while another one is loaded */
  show(info) {
    const isOther = info?.name !== this.#info?.name || info?.dtype !== this.#info?.dtype;
    this.#info = info;
    this.#variants = info ? bySize(info) : [];
    $("variants-part").hidden = this.#variants.length < 2;
    if ($("variants-part").hidden) return;
    if (isOther) this.#runs.clear();
    $("variant").max = this.#variants.length - 1;
    $("variant-rows").replaceChildren(...this.#variants.map((variant) => this.#row(variant)));
    this.#select(info.variant);
    this.#showTimes();
  }

  /** For the picture or the camera beside the slider. */
  showSource({ live }) {
    const [image, video] = [$("variants-preview"), $("variants-video")];
    image.hidden = live;
    video.hidden = !live;
    if (!live) image.src = $("preview").src;
    if (video.srcObject !== $("video").srcObject) video.srcObject = $("video").srcObject;
    if (live) video.play().catch(() => {}); // hidden parts need not play
    $("variants-camera").textContent = live ? "Stop the camera" : "Use the camera";
    $("variants-camera").setAttribute("aria-pressed", String(live));
  }

  /** Shows an answer's variant and time. */
  note({ variant, classes, latencyMs }) {
    if ($("variants-part").hidden) return;
    const runs = this.#runs.get(variant) ?? [];
    this.#runs.set(variant, [...runs, latencyMs.inference].slice(-KEPT_RUNS));
    $("variants-verdict").textContent = `${spoken(classes[0].label)} ${percent(classes[0].score)}`;
    $("variants-ms").textContent = `${milliseconds(this.#median(variant))} ms`;
    this.#select(variant);
    this.#showTimes();
  }

  /** @returns for `stream`: undefined where the slider chooses */
  get budget() {
    if ($("variants-part").hidden || !$("variant-auto").checked) return undefined;
    return { latencyMs: BUDGET_MS, onVariant: ({ variant }) => this.#select(variant) };
  }

  #named(at) {
    return this.#variants[at].name;
  }

  #median(name) {
    const runs = this.#runs.get(name);
    return runs && quantile(runs, 0.5);
  }

  #select(name) {
    const variants = this.#variants;
    const at = variants.findIndex((variant) => variant.name === name);
    if (this.#wanted === undefined) $("variant").value = at;
    const { macs: most } = variants.at(-1);
    const { imageSize, macs: own } = variants[at];
    const words = `${name}: ${percent(own / most)} of the multiply-accumulates, ${imageSize[1]} px`;
    $("variant-name").textContent = words;
    $("variant").setAttribute("aria-valuetext", words);
    for (const [i, row] of [...$("variant-rows").rows].entries()) row.classList.toggle("current", i === at);
  }

  /** Changes variants one after the other. Of several choices that wait, only the last is carried out. */
  async #want(name) {
    this.#wanted = name;
    if (this.#isChanging) return;
    this.#isChanging = true;
    $("variants-error").textContent = "";
    try {
      while (this.#wanted !== undefined) {
        const wish = this.#wanted;
        await this.#slim.use(wish);
        if (this.#wanted === wish) this.#wanted = undefined;
      }
    } catch (error) {
      if (!isOurDoing(error)) $("variants-error").textContent = advice(error);
    } finally {
      this.#wanted = undefined;
      this.#isChanging = false;
      if (this.#slim.vit) this.#select(this.#slim.vit.info.variant);
    }
  }

  async #timeAll() {
    $("variants-time").disabled = true;
    const { variant } = this.#info;
    for (const { name } of [...this.#variants, { name: variant }]) {
      const before = this.#runs.get(name)?.length ?? 0;
      await this.#want(name);
      const end = performance.now() + 10_000; // of a slow device, or a page without a picture
      while ((this.#runs.get(name)?.length ?? 0) < Math.min(before + TIMED_RUNS, KEPT_RUNS) && performance.now() < end)
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
    $("variants-time").disabled = false;
  }

  #row({ name, imageSize, macs: own, metrics }) {
    const record = accuracyOf(metrics, this.#info.dtype);
    const cells = [`${imageSize[1]} px`, macs(own), record ? percent(record.top1, 1) : "–", "–"];
    const title = record ? `on ${record.n} pictures of ${record.data}` : "";
    return element(
      "tr",
      {},
      Object.assign(element("th", { textContent: name }), { scope: "row" }),
      ...cells.map((textContent, i) => element("td", { textContent, title: i === 2 ? title : "" })),
    );
  }

  #showTimes() {
    const points = [];
    this.#variants.forEach(({ name, metrics }, i) => {
      const ms = this.#median(name);
      if (ms === undefined) return;
      $("variant-rows").rows[i].lastElementChild.textContent = `${milliseconds(ms)} ms`;
      const record = accuracyOf(metrics, this.#info.dtype);
      if (record) points.push({ name, ms, top1: record.top1 });
    });
    $("variants-chart").hidden = points.length < 2;
    if (points.length > 1) drawChart($("variants-chart"), points);
  }
}

const CHART = { width: 320, height: 170, left: 44, right: 56, top: 14, bottom: 34 };

/** Accuracy against milliseconds on this device; both axes begin near the smallest values. @param {SVGSVGElement} svg */
function drawChart(svg, points) {
  const { width, height, left, right, top, bottom } = CHART;
  const [slowest, best, worst] = [
    Math.max(...points.map(({ ms }) => ms)),
    Math.max(...points.map(({ top1 }) => top1)),
    Math.min(...points.map(({ top1 }) => top1)),
  ];
  const x = (ms) => left + (ms / slowest) * (width - left - right);
  const y = (top1) => top + ((best - top1) / Math.max(best - worst, 0.01)) * (height - top - bottom);
  const floor = height - bottom + 10;
  const sorted = [...points].sort((a, b) => a.ms - b.ms);
  svg.replaceChildren(
    shape("path", { class: "axis", d: `M${left} ${top - 8}V${floor}H${width - right + 8}` }),
    shape("path", { class: "line", d: `M${sorted.map(({ ms, top1 }) => `${x(ms)} ${y(top1)}`).join("L")}` }),
    text(percent(best, 1), { x: left - 6, y: y(best) + 4, class: "end" }),
    text(percent(worst, 1), { x: left - 6, y: y(worst) + 4, class: "end" }),
    text("0 ms", { x: left, y: floor + 16 }),
    text(`${milliseconds(slowest)} ms`, { x: x(slowest), y: floor + 16, class: "end" }),
    ...sorted.flatMap(({ name, ms, top1 }) => [
      shape("circle", { cx: x(ms), cy: y(top1), r: 5 }),
      text(name, { x: x(ms) + 9, y: y(top1) + 4 }),
    ]),
  );
  const said = sorted.map(({ name, ms, top1 }) => `${name} ${percent(top1, 1)} in ${milliseconds(ms)} ms`);
  svg.setAttribute("aria-label", `Accuracy against milliseconds on this device: ${said.join("; ")}`);
}

function shape(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

const text = (words, attributes) => Object.assign(shape("text", attributes), { textContent: words });
