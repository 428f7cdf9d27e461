/** The files of a source of any kind, and which of them are pictures. */

/** A file, or a folder, which has no `read`. */
export interface Entry {
  /** from the source's root, with "/" between folders and composed letters (Unicode NFC) */
  path: string;
  read?: () => Promise<Buffer>;
  /** why it was passed over, where it could not be listed */
  fault?: string;
}

/** What a table, or a file of the same name, says about a picture. */
export interface Annotation {
  /** undefined where the picture has no class */
  className?: string;
  split?: "train" | "val" | "test";
}

export interface Listing {
  entries: Entry[];
  /** by path; the only pictures that count, where there is one */
  annotations?: Map<string, Annotation>;
  /** beside which annotations are the entries' names, for messages */
  annotatedBy?: string;
}

/** Kinds that are decoded here. */
const PICTURE = /\.(jpe?g|jpe|jfif|pjpe?g|pjp|a?png|webp|gif|tiff?|avif|bmp|dib)$/i;
/** Kinds of pictures that are not decoded here. They are counted and reported. */
const OTHER_PICTURE =
  /\.(heic|heif|hif|svgz?|jxl|jp2|j2k|jpx|psd|ico|tga|ppm|pgm|pbm|pnm|exr|hdr|dng|cr2|cr3|nef|arw|orf|rw2|raf)$/i;

export const isPicture = (path: string): boolean => PICTURE.test(path);
export const isOtherPicture = (path: string): boolean => OTHER_PICTURE.test(path);

/** Files that notebooks, network drives, cameras and operating systems leave between the pictures. */
const LITTER = new Set([
  ...["__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information", "lost+found"],
  ...["__pycache__", "thumbs.db", "desktop.ini", "icon\r"],
]);

/** Whether a part of the path is hidden or does not belong to the data. */
export const isLitter = (path: string): boolean =>
  path.split("/").some((part) => part.startsWith(".") || LITTER.has(part.toLowerCase()));

/** No picture file is larger; one that is, or an archive's entry that claims to be, is refused unread. */
export const MAX_PICTURE_BYTES = 256 * 2 ** 20;

/** An archive's name of a file as a path: composed letters, without "./". */
export const cleanPath = (name: string): string =>
  name
    .normalize("NFC")
    .split("/")
    .filter((part) => part !== "" && part !== ".")
    .join("/");

export const nameOf = (path: string): string => path.slice(path.lastIndexOf("/") + 1);

export const folderOf = (path: string): string => path.slice(0, Math.max(0, path.lastIndexOf("/")));

/** Lower-case, with its dot; "" where there is none. */
export const extensionOf = (path: string): string =>
  nameOf(path)
    .match(/\.[^.]*$/)?.[0]
    .toLowerCase() ?? "";
