import { EVAL } from "../options/eval.ts";
import { flag } from "../options/spec.ts";
import { print } from "../shared/terminal.ts";
import { MODEL, simpleCommand } from "./command.ts";

const OPTIONS = {
  ...EVAL,
  unlabelled: flag(
    "--unlabelled",
    "with --against: measure how often both models agree and how close their features are, without labels",
  ),
};

export const evalCommand = () =>
  simpleCommand("eval", "measure accuracy, top-1 and top-5", MODEL, OPTIONS, async (source, options) => {
    const { agreeWith, evaluate } = await import("../evaluation/evaluate.ts");
    const share = (value: number) => `${(100 * value).toFixed(2)} %`;
    if (options.unlabelled) {
      const report = await agreeWith(source, options);
      const { agreement, divergence, cosine, n } = report;
      const figures = [
        agreement === undefined ? "" : `agreement ${share(agreement)}  `,
        divergence === undefined ? "" : `divergence ${divergence.toFixed(4)}  `,
        cosine === undefined ? "" : `cosine ${cosine.toFixed(4)}  `,
      ];
      if (!options.json) print(`${figures.join("")}n ${n}`);
      return report;
    }
    const report = await evaluate(source, options);
    if (!options.json) print(`top-1 ${share(report.top1)}  top-5 ${share(report.top5)}  n ${report.n}`);
    return report;
  });
