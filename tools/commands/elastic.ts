import { ELASTIC, readElasticOptions } from "../options/elastic.ts";
import { MODEL, simpleCommand } from "./command.ts";

export const elasticCommand = () =>
  simpleCommand(
    "elastic",
    "make a folder of nested variants of a model, from which a page takes the best for its device",
    MODEL,
    ELASTIC,
    async (source, options) => {
      const { elastic } = await import("../elastic/elastic.ts");
      return elastic(source, readElasticOptions(options));
    },
  );
