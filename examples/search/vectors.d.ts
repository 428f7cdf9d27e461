export class VectorIndex {
  constructor(dim: number);
  readonly dim: number;
  readonly size: number;
  has(key: string): boolean;
  add(key: string, vector: ArrayLike<number>): void;
  search(query: ArrayLike<number>, count?: number): { key: string; similarity: number }[];
}
