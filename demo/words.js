// Numbers and errors as people read them.
import { SlimViTError } from "slimvit";

export const $ = (id) => document.getElementById(id);

/** @param {string} tag @param {object} [properties] @param {(Node | string)[]} children */
export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

export const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
export const milliseconds = (ms) => (ms < 9.95 ? ms.toFixed(1) : ms.toFixed(0));
export const macs = (n) => (n >= 1e9 ? `${(n / 1e9).toFixed(2)} G` : `${(n / 1e6).toFixed(0)} M`);
export const millions = (n) => `${(n / 1e6).toFixed(2)} M`;

/** A label as people write it; those of data sets that are folders have underscores. */
export const spoken = (label) => label.replaceAll("_", " ");

/** @param {number[]} values @param {number} q 0.5 for the median */
export function quantile(values, q) {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (sorted.length - 1) * q;
  const [low, high] = [sorted[Math.floor(at)], sorted[Math.ceil(at)]];
  return low + (high - low) * (at - Math.floor(at));
}

const ADVICE = {
  "bad-input": "That is no picture this browser can read. Try a JPEG, PNG or WebP.",
  network: "The download broke off. Check the connection, then try again; what has arrived whole is kept.",
  integrity: "The model arrived damaged and was not used. Try again to fetch it once more.",
  "worker-lost": "The worker that computes was stopped, perhaps to save memory. Try again: a fresh one starts.",
  "device-lost": "The graphics device was lost. Try again, or choose another engine.",
  "out-of-memory": "There is not enough memory here. Close other tabs, or choose smaller weights (int8).",
};

/** @returns {string} what happened and what to do */
export function advice(error) {
  return (error instanceof SlimViTError && ADVICE[error.code]) || error.message;
}

/** Nobody needs to be told of these: the page itself ended the call. */
export const isOurDoing = (error) => error instanceof SlimViTError && ["aborted", "disposed"].includes(error.code);
