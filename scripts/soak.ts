// Half an hour of classification without a pause: the shipped model on `simd` and a small one on both WebGPU engines, each
// in its worker, in a real Chromium (WebGPU by SwiftShader). Every 30 s, after a collection, the objects that are alive are
// counted and memory is read. What is kept of a classification, however small, is at least one object; bytes also grow by
// the machine code that V8 makes of what runs often, so their bound is wider.
//   npm run build && npm run soak                 SOAK_MINUTES=2 for a shorter one, which writes nothing
// Prints each sample, then writes the figures into docs/robustness.md. Exits 1 when memory grows or an answer differs.
import { growthOf, type Sample, SOAK_ENGINES, soak } from "../test/robustness/soak.ts";
import { machine, thousands, writeSection } from "./section.ts";

const MINUTES = Number(process.env.SOAK_MINUTES ?? 30);
const SAMPLE_MS = 30_000;

/** Shaders, code and caches are made in the first part of the run. Growth is judged over the rest. */
const WARM_UP = 1 / 6;

/** Largest growth by least squares from the end of the warm-up to the end, as a share of what is held. */
const MAX_GROWTH = { heldBytes: 0.05, gpuBytes: 0, gpuProcessBytes: 0.05 };
/** Largest growth in objects for each classification. */
const MAX_KEPT = 0.02;

interface Row {
  what: string;
  first: number;
  last: number;
  growth: number;
  limit: number;
}

function main(samples: Sample[]): void {
  const judged = samples.slice(Math.floor(samples.length * WARM_UP));
  const row = (what: string, limit: number, value: (sample: Sample) => number): Row => {
    const values = judged.map(value);
    return { what, first: values[0], last: values.at(-1)!, growth: growthOf(values) / Math.max(1, values[0]), limit };
  };
  const [first, last] = [judged[0], samples.at(-1)!];
  const kept = growthOf(judged.map(({ objects }) => objects)) / (classifiedBy(last) - classifiedBy(first));
  const rows = [
    row("JavaScript and WASM of page and workers, bytes", MAX_GROWTH.heldBytes, ({ heldBytes }) => heldBytes),
    row("GPU buffers alive, bytes", MAX_GROWTH.gpuBytes, ({ gpu }) => gpu.bytes),
    row("GPU buffers alive", MAX_GROWTH.gpuBytes, ({ gpu }) => gpu.buffers),
    row("Chromium's GPU process (SwiftShader), bytes resident", MAX_GROWTH.gpuProcessBytes, (s) => s.gpuProcessBytes),
  ];
  const done = SOAK_ENGINES.map((engine) => `${thousands(last.classified[engine])} on \`${engine}\``).join(", ");
  const text = [
    `\`npm run soak\` on ${machine}: ${(last.seconds / 60).toFixed(0)} minutes, ${samples.length} samples. Classifications: ${done}. ` +
      `${last.different} results differed from the first one for the same picture.`,
    "",
    "| memory | after the warm-up | at the end | growth by least squares | bound |",
    "| --- | --- | --- | --- | --- |",
    `| objects of page and workers | ${thousands(first.objects)} | ${thousands(last.objects)} | ${kept.toFixed(4)} a classification | ${MAX_KEPT} |`,
    ...rows.map(({ what, first, last, growth, limit }) => {
      return `| ${what} | ${thousands(first)} | ${thousands(last)} | ${percent(growth)} | ${percent(limit)} |`;
    }),
  ].join("\n");
  console.log(`\n${text}`);
  if (process.env.SOAK_MINUTES === undefined) writeSection("soak", text);
  const grown = rows.filter(({ growth, limit }) => !(growth <= limit)); // NaN from too few samples is not
  for (const { what, growth } of grown) console.error(`soak: ${what} grew by ${percent(growth)}.`);
  const isKept = !(kept <= MAX_KEPT);
  if (isKept) console.error(`soak: objects kept, ${kept.toFixed(4)} a classification: ${grownKinds(first, last)}`);
  if (grown.length || isKept || last.different) process.exit(1);
}

/** The kinds of which there are more than before, most first. */
function grownKinds(first: Sample, last: Sample): string {
  const grown = [...last.kinds].map(([kind, count]) => [kind, count - (first.kinds.get(kind) ?? 0)] as const);
  const most = grown.sort(([, a], [, b]) => b - a).slice(0, 8);
  return most.flatMap(([kind, more]) => (more > 0 ? [`${kind} ${more}`] : [])).join(", ");
}

const classifiedBy = ({ classified }: Sample) => SOAK_ENGINES.reduce((sum, engine) => sum + classified[engine], 0);

const percent = (share: number) => `${(100 * share).toFixed(2)} %`;

const log = (sample: Sample) => {
  const { seconds, objects, heldBytes, gpu, gpuProcessBytes } = sample;
  console.log(
    `${seconds.toFixed(0)} s: ${classifiedBy(sample)} classified, ${objects} objects, ${heldBytes} bytes held, ` +
      `${gpu.buffers} GPU buffers of ${gpu.bytes} bytes, GPU process ${gpuProcessBytes}`,
  );
};
main(await soak(MINUTES * 60_000, SAMPLE_MS, log));
