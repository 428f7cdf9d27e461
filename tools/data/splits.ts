/** The split that a picture belongs to. */
export type Split = "train" | "val" | "test" | "all";
export const SPLITS: Split[] = ["train", "val", "test", "all"];

export type SplitPart = Exclude<Split, "all">;

const WHAT = "([ _-]?(set|data|dataset|split|images?|pictures|imgs?))?";
const NAMES: [SplitPart, RegExp][] = [
  ["train", new RegExp(`^(train|training|trn)${WHAT}$`, "i")],
  ["val", new RegExp(`^(val|valid|validate|validation|validating|dev)${WHAT}$`, "i")],
  ["test", new RegExp(`^(test|tests|testing|tst)${WHAT}$`, "i")],
];

/** The split that people mean by a folder's name, or by a table's word: "Training", "valid", "test_set". */
export const splitNamed = (name: string): SplitPart | undefined =>
  NAMES.find(([, form]) => form.test(name.trim()))?.[0];

interface Placed {
  path: string;
  className: string;
  split?: SplitPart;
}

/**
 * The pictures of a split, sorted by their paths. Data that has splits of its own is split by them. Other data by position:
 * with each class's file names sorted, every fifth from the fifth on is test, every fifth from the fourth on validation, the
 * rest train.
 */
export function inSplit<T extends Placed>(files: T[], wanted: Split): T[] {
  const sorted = [...files].sort((a, b) => (a.path < b.path ? -1 : 1));
  if (wanted === "all") return sorted;
  if (files.some(({ split }) => split)) return sorted.filter(({ split }) => split === wanted);
  const position = new Map<string, number>();
  return sorted.filter(({ className }) => {
    const k = position.get(className) ?? 0;
    position.set(className, k + 1);
    return (k % 5 === 4 ? "test" : k % 5 === 3 ? "val" : "train") === wanted;
  });
}

/** `limit` pictures spread evenly over all, so that every class is seen. */
export function spread<T>(items: T[], limit: number): T[] {
  if (limit >= items.length) return items;
  return Array.from({ length: limit }, (_, k) => items[Math.floor((k * items.length) / limit)]);
}
