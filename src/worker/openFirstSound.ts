/** Opens the first weights that pass the self-test on the chosen engine. */
import type { RecoveringEngine } from "../engines/recovery.ts";
import { isWrongResults } from "../engines/selfTest.ts";
import { messageOf } from "../errors.ts";
import type { LoadedModel } from "../loading/loadModel.ts";
import type { LoadRequest } from "../protocol.ts";

/** Opens the engine with the preferred weights, or with the next ones if its results are wrong. */
export async function openFirstSound(
  { engine: wanted }: LoadRequest,
  first: LoadedModel,
  open: (model: LoadedModel["model"], isLast: boolean) => Promise<RecoveringEngine>,
): Promise<{ loaded: LoadedModel; engine: RecoveringEngine }> {
  for (let loaded = first; ; ) {
    const { loadNext } = loaded;
    try {
      return { loaded, engine: await open(loaded.model, !loadNext) };
    } catch (error) {
      if (!loadNext || !isWrongResults(error)) throw error;
      loaded = await loadNext(`with engine "${wanted}": ${messageOf(error)}`);
    }
  }
}
