// What merged with what: the patches that one token stands for, as areas of their mean colour with rounded corners.

/** Opacity of an area's mean colour: a trace of the picture stays visible underneath. */
const FILL = 0.86;
/** Opacity of the picture beside the token under the pointer. */
const DIM = 0.72;
/** The gap around an area and the radius of its corners, as shares of a patch's side. */
const GAP = 0.05;
const ROUND = 0.32;

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
 * Draws tokens over a picture that is already drawn. A token of a single patch shows the picture itself.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {HTMLCanvasElement} picture the square that the model sees
 * @param {Int32Array} groups
 * @param {{ columns: number, rows: number }} grid
 * @param {{ ground: string, pointed?: number }} look colour of the gaps; the patch that is pointed at: its token stands out
 */
export function drawGroups(context, picture, groups, { columns, rows }, { ground, pointed }) {
  const { width, height } = context.canvas;
  const [w, h] = [width / columns, height / rows];
  const colours = patchColours(picture, columns, rows);
  const chosen = pointed === undefined ? undefined : groups[pointed];
  for (const [token, patches] of membersOf(groups)) {
    const isBeside = chosen !== undefined && token !== chosen;
    if (patches.length > 1) {
      // First the ground, so that the gap around the area is of one colour whatever the picture is.
      paint(context, squaresOf(patches, columns, w, h), ground, 1);
      const area = outlineOf(groups, patches, columns, rows, w, h);
      context.save();
      context.clip(area);
      context.globalAlpha = 1;
      context.drawImage(picture, 0, 0);
      context.restore();
      paint(context, area, meanColour(patches.map((patch) => colours[patch])), chosen === token ? FILL / 2 : FILL);
    }
    if (isBeside) paint(context, squaresOf(patches, columns, w, h), ground, DIM);
  }
  context.globalAlpha = 1;
}

function paint(context, path, colour, alpha) {
  context.globalAlpha = alpha;
  context.fillStyle = colour;
  context.fill(path);
}

function squaresOf(patches, columns, w, h) {
  const path = new Path2D();
  for (const patch of patches) path.rect((patch % columns) * w, Math.floor(patch / columns) * h, w, h);
  return path;
}

/**
 * Each patch is a rounded square; to the right and below it grows into a neighbour of the same token, and where four are of
 * one token, over the corner between them. So the area is one shape, and round where it ends.
 */
function outlineOf(groups, patches, columns, rows, w, h) {
  const path = new Path2D();
  const [gapX, gapY] = [w * GAP, h * GAP];
  const [roundX, roundY] = [w * ROUND, h * ROUND];
  for (const patch of patches) {
    const [column, row] = [patch % columns, Math.floor(patch / columns)];
    const [x, y] = [column * w + gapX, row * h + gapY];
    const [innerW, innerH] = [w - 2 * gapX, h - 2 * gapY];
    const isSame = (right, down) =>
      column + right < columns && row + down < rows && groups[patch + right + down * columns] === groups[patch];
    path.roundRect(x, y, innerW, innerH, Math.min(roundX, roundY));
    const [toRight, below] = [isSame(1, 0), isSame(0, 1)];
    if (toRight) path.rect(x + innerW - roundX, y, 2 * (roundX + gapX), innerH);
    if (below) path.rect(x, y + innerH - roundY, innerW, 2 * (roundY + gapY));
    if (toRight && below && isSame(1, 1))
      path.rect(x + innerW - roundX, y + innerH - roundY, 2 * (roundX + gapX), 2 * (roundY + gapY));
  }
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
