import { SlimViT } from "./node_modules/slimvit/dist/index.js";
import model from "./node_modules/slimvit-deit-tiny-slim/index.js";

const input = document.querySelector("input");
const output = document.querySelector("output");
const loading = SlimViT.load(model); // a page of the extension has workers, as any page

async function classify() {
  try {
    const vit = await loading;
    const { classes, latencyMs, engine } = await vit.classify(input.files[0]);
    output.value = `${classes[0].label}, ${Math.round(latencyMs.total)} ms on ${engine}`;
  } catch (error) {
    output.value = error.message; // written for people
  }
}

input.addEventListener("change", classify);
