/** Which part of the data a picture belongs to. */
export type Split = "train" | "val" | "test" | "all";
export const SPLITS: Split[] = ["train", "val", "test", "all"];
