// What merged with what: the patches that one token stands for, as one area of their mean colour.

/** Opacity of an area's mean colour: the picture stays visible underneath. */
const FILL = 0.72;
const LINE = 2;

/**
 * @param {Int32Array} groups for each patch of the grid the token that stands for it, −1 where it was dropped
 * @returns {Map<number, number[]>} the patches of each token, dropped ones left out
 */
export function membersOf(groups) {
  const members = new Map();
  groups.forEach((token, patch) => {
    if (token < 0) return;
    if (!members.has(token)) members.set(token, []);
    members.get(token).push(patch);
  });
  return members;
}

/**
 * Over a picture that is already drawn. A token of a single patch shows the picture itself.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {HTMLCanvasElement} picture the square that the model sees
 * @param {Int32Array} groups
 * @param {{ columns: number, rows: number }} grid
 * @param {string} lineColour of the borders between areas
 */
export function drawGroups(context, picture, groups, { columns, rows }, lineColour) {
  const { width, height } = context.canvas;
  const [w, h] = [width / columns, height / rows];
  const colours = patchColours(picture, columns, rows);
  for (const patches of membersOf(groups).values()) {
    if (patches.length < 2) continue;
    context.globalAlpha = FILL;
    context.fillStyle = meanColour(patches.map((patch) => colours[patch]));
    for (const patch of patches)
      context.fillRect((patch % columns) * w, Math.floor(patch / columns) * h, w + 0.5, h + 0.5);
  }
  context.globalAlpha = 1;
  context.strokeStyle = lineColour;
  context.lineWidth = LINE;
  context.stroke(borders(groups, columns, w, h));
}

/** Lines between neighbours of different tokens. */
function borders(groups, columns, w, h) {
  const path = new Path2D();
  groups.forEach((token, patch) => {
    const [x, y] = [(patch % columns) * w, Math.floor(patch / columns) * h];
    if (patch % columns && groups[patch - 1] !== token) {
      path.moveTo(x, y);
      path.lineTo(x, y + h);
    }
    if (patch >= columns && groups[patch - columns] !== token) {
      path.moveTo(x, y);
      path.lineTo(x + w, y);
    }
  });
  return path;
}

/** @returns {[number, number, number][]} one colour a patch */
function patchColours(picture, columns, rows) {
  const small = new OffscreenCanvas(columns, rows).getContext("2d", { willReadFrequently: true });
  small.imageSmoothingQuality = "high";
  small.drawImage(picture, 0, 0, columns, rows);
  const { data } = small.getImageData(0, 0, columns, rows);
  return Array.from({ length: columns * rows }, (_, patch) => [...data.subarray(4 * patch, 4 * patch + 3)]);
}

function meanColour(colours) {
  const mean = [0, 1, 2].map((channel) => colours.reduce((sum, colour) => sum + colour[channel], 0) / colours.length);
  return `rgb(${mean.map(Math.round).join(" ")})`;
}
