/** SVG drawings → bitmaps. Part of dist/draw-svg.js, because few pages need it. */
import { SlimViTError, throwIfAborted } from "../errors.ts";
import { checkSize } from "../image/imageSize.ts";

/** @throws SlimViTError `network`, `aborted` */
export async function fetchSvg(url: string, signal?: AbortSignal): Promise<Response> {
  try {
    return await fetch(url, { signal });
  } catch (error) {
    throwIfAborted(signal);
    const fault = "could not be fetched. Is it online, and does it allow this page (CORS)?";
    throw new SlimViTError("network", `${url}: ${fault}`, { cause: error });
  }
}

/** Shorter side in pixels of a drawing. It is larger than any model's input, so that the drawing is always sharp. */
const DRAWN_SIDE = 1024;

/**
 * Draws an SVG. Only a page can do so, through an <img>, which loads nothing that the file names and runs no script.
 *
 * @throws SlimViTError `bad-input`
 */
export async function drawSvg(blob: Blob, name: string): Promise<ImageBitmap> {
  const url = URL.createObjectURL(blob.type ? blob : new Blob([blob], { type: "image/svg+xml" }));
  try {
    const image = new Image();
    image.src = url;
    await image.decode();
    const [width, height] = [image.naturalWidth || DRAWN_SIDE, image.naturalHeight || DRAWN_SIDE];
    const scale = DRAWN_SIDE / Math.min(width, height);
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    checkSize(name, canvas.width, canvas.height);
    const context = canvas.getContext("2d")!;
    context.fillStyle = "white"; // drawings are made for paper: what they leave out is not black
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    return await createImageBitmap(canvas);
  } catch (error) {
    if (error instanceof SlimViTError) throw error;
    throw new SlimViTError("bad-input", `${name}: is no SVG drawing that this browser can draw.`, { cause: error });
  } finally {
    URL.revokeObjectURL(url);
  }
}
