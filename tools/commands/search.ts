import { SEARCH } from "../options/search.ts";
import { MODEL, simpleCommand } from "./command.ts";

export const searchCommand = () =>
  simpleCommand(
    "search",
    "train masks together with the weights, to rank channels, units and tokens",
    MODEL,
    SEARCH,
    async (source, options) => {
      const { search } = await import("../masks/search.ts");
      const { history: _, ...report } = await search(source, options);
      return report;
    },
  );
