import { SlimViT } from "slimvit";

const [input, stop, progress, output, rows] = ["input", "button", "progress", "output", "tbody"].map((name) =>
  document.querySelector(name),
);
const loading = SlimViT.load("/models/deit-tiny-slim/"); // starts while the visitor still chooses
let running = new AbortController();

/** Each file's label as it comes. Files that are no pictures have their error in its place. @param {File[]} files */
async function nameAll(files) {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  rows.replaceChildren();
  progress.hidden = stop.hidden = false;
  const onProgress = ({ done, failed, total }) => {
    progress.value = done / total;
    output.value = `${done} of ${total}${failed ? `, ${failed} of them cannot be read` : ""}`;
  };
  try {
    const vit = await loading;
    for await (const { input: file, result, error } of vit.classifyAll(files, { topK: 1, signal, onProgress })) {
      const [best] = result?.classes ?? [];
      addRow(file.name, best ? best.label : error.message, best ? best.score.toFixed(2) : error.code);
    }
  } catch (error) {
    if (running.signal !== signal) return; // other files have been chosen
    output.value = signal.aborted ? `Stopped after ${rows.childElementCount} of ${files.length}` : error.message;
  }
  if (running.signal === signal) progress.hidden = stop.hidden = true;
}

function addRow(...texts) {
  const row = rows.insertRow();
  for (const text of texts) row.insertCell().textContent = text;
}

input.addEventListener("change", () => nameAll([...input.files]));
stop.addEventListener("click", () => running.abort());
if (input.files.length) nameAll([...input.files]); // chosen before this script had come
