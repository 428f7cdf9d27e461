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

/** @returns {string} what happened and what to do, as the package said it */
export const advice = (error) => error.message;

/** Nobody needs to be told of these: the page itself ended the call. */
export const isOurDoing = (error) => error instanceof SlimViTError && ["aborted", "disposed"].includes(error.code);
