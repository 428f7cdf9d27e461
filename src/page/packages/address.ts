/** The address of a script that the app's bundler makes: a chunk of its own, or a worker's script. */
import { SlimViTError } from "../../errors.ts";
import { isAddress } from "../scripts.ts";

/** Milliseconds that the script may take to load. */
const LOAD_MS = 30_000;

/**
 * @param chunk imports the script, which exports its own address. webpack and similar bundlers give a source file's
 *   address there, since only they can load their chunks.
 * @param start starts the script as a worker, for those. It answers with its address and is ended.
 */
export async function addressOf(
  name: string,
  chunk: () => Promise<{ url: string | undefined }>,
  start: () => Worker,
  ownUrl: string | undefined,
): Promise<string> {
  if (isAddress(ownUrl)) {
    const { url } = await chunk();
    if (isAddress(url) && url !== ownUrl) return url;
    throw new SlimViTError(
      "unsupported",
      `${name} has no file of its own: the app's bundler puts everything into one. Let it split the code, or serve the ` +
        `package yourself and pass engineUrls: { "${name}": "its URL" }.`,
    );
  }
  const worker = start();
  try {
    return await new Promise<string>((resolve, reject) => {
      const fail = (event?: ErrorEvent) => {
        event?.preventDefault();
        reject(
          new SlimViTError("unsupported", `${name} did not load (${event?.message || "its script did not answer"}).`),
        );
      };
      setTimeout(fail, LOAD_MS);
      worker.onerror = fail;
      worker.onmessage = ({ data }) => resolve(data);
    });
  } finally {
    worker.terminate();
  }
}
