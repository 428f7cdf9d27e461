// The lines of code that each part of the page shows, with a button to copy them.
import { element } from "./words.js";

const SAID_MS = 2000;

/** Gives each block of code on the page its button. */
export function setUpCode() {
  for (const block of document.querySelectorAll(".code pre")) {
    const button = element("button", { type: "button", className: "button copy-code", textContent: "Copy" });
    button.addEventListener("click", () => copy(block.textContent, button));
    // A long line scrolls inside its box, so that the box must be reachable with the keyboard.
    Object.assign(block, { tabIndex: 0 });
    block.setAttribute("role", "group");
    block.setAttribute("aria-label", "Code");
    block.after(button);
  }
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select the code instead: the browser did not allow copying";
  }
  setTimeout(() => (button.textContent = "Copy"), SAID_MS);
}
