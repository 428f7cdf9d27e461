// Light and dark: the system's choice until the visitor makes one.
import { $ } from "./words.js";

/** @param {() => void} onChange called when drawings need other colours */
export function setUpTheme(onChange) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const show = (isDark) => {
    document.documentElement.style.colorScheme = isDark ? "dark" : "light";
    $("theme").setAttribute("aria-pressed", String(isDark));
    onChange();
  };
  show(localStorage.theme ? localStorage.theme === "dark" : system.matches);
  system.addEventListener("change", () => localStorage.theme || show(system.matches));
  $("theme").addEventListener("click", () => {
    const isDark = $("theme").getAttribute("aria-pressed") !== "true";
    localStorage.theme = isDark ? "dark" : "light";
    show(isDark);
  });
}
