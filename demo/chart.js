// The last runs of both models: a bar to the median, a band from p10 to p90, a dot a run.
import { milliseconds, quantile } from "./words.js";

const NS = "http://www.w3.org/2000/svg";
const ROW = 40;
const AXIS = 18;
const LEFT = 46;
const RIGHT = 64;

/**
 * @param {SVGSVGElement} svg
 * @param {{ name: string, className: string, runs: number[] }[]} rows milliseconds
 */
export function drawChart(svg, rows) {
  const filled = rows.filter(({ runs }) => runs.length);
  const width = svg.clientWidth || 320;
  const height = rows.length * ROW + AXIS;
  const top = niceCeiling(Math.max(1, ...filled.map(({ runs }) => 1.1 * quantile(runs, 0.9))));
  const x = (ms) => LEFT + (Math.min(ms, top) / top) * (width - LEFT - RIGHT);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.style.height = `${height}px`;
  svg.setAttribute("aria-label", describe(filled));

  const nodes = [0, top / 2, top].flatMap((ms) => [
    make("line", { class: "grid", x1: x(ms), x2: x(ms), y1: 0, y2: height - AXIS }),
    make("text", { class: "tick", x: x(ms), y: height - 3, "text-anchor": "middle" }, `${ms}`),
  ]);
  rows.forEach(({ name, className, runs }, i) => {
    const y = i * ROW + ROW / 2;
    const group = make("g", { class: className });
    group.append(make("text", { class: "name", x: 0, y: y + 4 }, name));
    if (runs.length) {
      const [low, middle, high] = [0.1, 0.5, 0.9].map((q) => quantile(runs, q));
      group.append(
        make("rect", { class: "middle", x: LEFT, y: y - 12, width: x(middle) - LEFT, height: 24, rx: 3 }),
        make("rect", { class: "band", x: x(low), y: y - 12, width: Math.max(1, x(high) - x(low)), height: 24, rx: 3 }),
        // Spread over the height, so that equal times do not hide each other.
        ...runs.map((ms, k) => {
          const isLast = k === runs.length - 1;
          const cy = y + (((k * 7) % 11) - 5) * 1.7;
          return make("circle", { class: isLast ? "last" : "", cx: x(ms), cy, r: isLast ? 3 : 1.8 });
        }),
        make("text", { class: "value", x: x(Math.max(high, middle)) + 8, y: y + 4 }, `${milliseconds(middle)} ms`),
      );
    }
    nodes.push(group);
  });
  svg.replaceChildren(...nodes);
}

function describe(rows) {
  if (!rows.length) return "No runs yet";
  return rows
    .map(({ name, runs }) => {
      const [low, middle, high] = [0.1, 0.5, 0.9].map((q) => milliseconds(quantile(runs, q)));
      return `${name}: median ${middle} ms, from ${low} to ${high} ms over ${runs.length} runs`;
    })
    .join("; ");
}

function niceCeiling(ms) {
  const unit = 10 ** Math.floor(Math.log10(ms));
  return [1, 2, 3, 4, 6, 8, 10].find((step) => step * unit >= ms) * unit;
}

function make(tag, attributes, text = "") {
  const node = document.createElementNS(NS, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  return node;
}
