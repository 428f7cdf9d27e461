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

/** Files that the package keeps by itself. */
export const WEIGHTS = /\.safetensors(\.zz)?$/;

/** @returns {string} "1 picture", "2 pictures" */
export const counted = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

/** A label as people write it. Labels that come from folders have underscores. */
export const spoken = (label) => label.replaceAll("_", " ");

/** @param {number[]} values @param {number} q 0.5 for the median */
export function quantile(values, q) {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (sorted.length - 1) * q;
  const [low, high] = [sorted[Math.floor(at)], sorted[Math.ceil(at)]];
  return low + (high - low) * (at - Math.floor(at));
}

/** @returns {string} the package's message: what happened and what to do */
export const advice = (error) => error.message;

/** Whether an error needs no message, because the page itself ended the call. */
export const isOurDoing = (error) => error instanceof SlimViTError && ["aborted", "disposed"].includes(error.code);

/** Lets the browser answer a finger and paint before what comes next. */
export const nextTask = () => new Promise((resolve) => setTimeout(resolve));

/** @returns {{ name: string, macs: number }[]} of a manifest or of `info`, the smallest first */
export const bySize = ({ variants = [] }) => [...variants].sort((a, b) => a.macs - b.macs);

/**
 * A manifest of version 2 lists variants of the network; in version 1 there is one.
 *
 * @param {object} manifest
 * @param {string} [name] of a variant; default the largest
 * @returns the manifest with that variant's own fields
 */
export function selected(manifest, name) {
  const variants = bySize(manifest);
  const variant = variants.find((one) => one.name === name) ?? variants.at(-1);
  if (!variant) return manifest;
  const { imageSize, blocks, metrics } = variant;
  return { ...manifest, imageSize, blocks, metrics, preprocess: { ...manifest.preprocess, ...variant.preprocess } };
}

/** @returns {{ top1: number, n: number, data: string } | undefined} what was measured with these weights, or with others */
export function accuracyOf(metrics, dtype) {
  const records = metrics?.accuracy ?? [];
  return records.find((record) => record.dtype === dtype) ?? records[0];
}
