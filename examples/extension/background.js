// "npm install" here puts the packages beside this file.
import { SlimViT } from "./node_modules/slimvit/dist/index.js";
import { createHost } from "./node_modules/slimvit/dist/worker.js";
import model from "./node_modules/slimvit-deit-tiny-slim/index.js";

let loading;

/** The browser ends a background that idles, and starts it anew for the next click. */
function open() {
  // A background can start no worker: the model runs in its own thread.
  loading ??= SlimViT.load(model, { host: createHost });
  loading.catch(() => (loading = undefined)); // the next click tries again
  return loading;
}

chrome.runtime.onInstalled.addListener(() => {
  chrome.contextMenus.create({ id: "name", title: "Name this picture", contexts: ["image"] });
});

chrome.contextMenus.onClicked.addListener(async ({ srcUrl }, tab) => {
  const say = (text) => chrome.scripting.executeScript({ target: { tabId: tab.id }, func: show, args: [text] });
  try {
    await say("…");
    const vit = await open();
    const { classes, latencyMs, engine } = await vit.classify(srcUrl);
    await say(`${classes[0].label}, ${Math.round(latencyMs.total)} ms on ${engine}`);
  } catch (error) {
    await say(error.message); // written for people
  }
});

/** Runs in the page. */
function show(text) {
  const id = "slimvit-answer";
  const output = document.getElementById(id) ?? document.body.appendChild(document.createElement("output"));
  Object.assign(output, { id, textContent: text });
  output.style =
    "position: fixed; bottom: 1em; right: 1em; padding: 1em; background: #222; color: #fff; z-index: 2147483647";
}
