import { ELASTIC, readElasticOptions } from "../options/elastic.ts";
import { MODEL, simpleCommand } from "./command.ts";

export const elasticCommand = () =>
  simpleCommand(
    "elastic",
    "several variants on one set of weights, of which a page takes what its device can afford",
    MODEL,
    ELASTIC,
    async (source, options) => {
      const { elastic } = await import("../elastic/elastic.ts");
      return elastic(source, readElasticOptions(options));
    },
  );
