/** Picture files out of what was dropped or chosen, folders within folders included. */
const PICTURE = /\.(jpe?g|png|webp|gif|avif|bmp)$/i;

/** @param {DataTransfer} dropped to be read before anything is awaited @returns {AsyncGenerator<File>} */
export function filesOf(dropped) {
  const entries = [...dropped.items].map((item) => item.webkitGetAsEntry() ?? item.getAsFile()).filter(Boolean);
  return walk(entries);
}

async function* walk(entries) {
  for (const entry of entries) {
    if (entry.isDirectory) yield* walk(await childrenOf(entry));
    else if (PICTURE.test(entry.name))
      yield entry instanceof File ? entry : await new Promise((resolve, reject) => entry.file(resolve, reject));
  }
}

/** A folder's reader gives a hundred at a time. */
async function childrenOf(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return all;
    all.push(...some);
  }
}

/** @param {Iterable<File>} files */
export const picturesIn = (files) => [...files].filter(({ name }) => PICTURE.test(name));

/** @param {File} file what tells it from others, on the next visit too */
export const keyOf = (file) => `${file.webkitRelativePath || file.name} ${file.size} ${file.lastModified}`;

/** @returns {Promise<Blob>} a JPEG of 160 px at most */
export async function thumbnailOf(file) {
  const picture = await createImageBitmap(file);
  const scale = Math.min(1, 160 / Math.max(picture.width, picture.height));
  const canvas = new OffscreenCanvas(Math.ceil(picture.width * scale), Math.ceil(picture.height * scale));
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.8 });
}
