import { SlimViT } from "slimvit";

const output = document.querySelector("output");
const loading = SlimViT.load("/models/deit-tiny-slim/"); // starts while the visitor still chooses

document.querySelector("input").addEventListener("change", async ({ target }) => {
  try {
    const vit = await loading;
    const { classes, latencyMs, engine } = await vit.classify(target.files[0]);
    output.value = `${classes[0].label}, ${Math.round(latencyMs.total)} ms on ${engine}`;
  } catch (error) {
    output.value = error.message; // written for people
  }
});
