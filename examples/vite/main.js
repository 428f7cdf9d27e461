import { SlimViT } from "slimvit";

const input = document.querySelector("input");
const output = document.querySelector("output");
const loading = SlimViT.load("/models/deit-tiny-slim/"); // starts while the visitor still chooses

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
if (input.files.length) classify(); // chosen before this script had come
