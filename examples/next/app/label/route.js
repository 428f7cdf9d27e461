import { SlimViT } from "slimvit";

let loading; // one model for all requests

/** On the server: POST /label?width=W&height=H with RGBA pixels, as sharp's `.ensureAlpha().raw()` gives them. */
export async function POST(request) {
  const { searchParams } = new URL(request.url);
  const [width, height] = ["width", "height"].map((name) => Number(searchParams.get(name)));
  const data = new Uint8ClampedArray(await request.arrayBuffer());
  loading ??= SlimViT.load("public/models/deit-tiny-slim");
  try {
    const vit = await loading;
    const { classes, latencyMs, engine } = await vit.classify({ data, width, height });
    return new Response(`${classes[0].label}, ${Math.round(latencyMs.total)} ms on ${engine}`);
  } catch (error) {
    return new Response(error.message, { status: 400 });
  }
}
