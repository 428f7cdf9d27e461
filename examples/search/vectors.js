/** Unit vectors side by side in one array: a search is a dot product with each, two million multiplications for 10,000 of 192. */
export class VectorIndex {
  /** @param {number} dim length of a vector */
  constructor(dim) {
    this.dim = dim;
    /** @type {string[]} */
    this.keys = [];
    this.vectors = new Float32Array(dim * 64);
    this.rows = new Map();
  }

  get size() {
    return this.keys.length;
  }

  /** @param {string} key @returns {boolean} */
  has(key) {
    return this.rows.has(key);
  }

  /**
   * Adds a vector, or replaces the one of that key.
   * @param {string} key @param {ArrayLike<number>} vector of any length but 0
   */
  add(key, vector) {
    const unit = this.unitOf(vector);
    let row = this.rows.get(key);
    if (row === undefined) {
      row = this.keys.push(key) - 1;
      this.rows.set(key, row);
      if (this.vectors.length < (this.keys.length + 3) * this.dim) {
        const larger = new Float32Array(2 * this.vectors.length);
        larger.set(this.vectors);
        this.vectors = larger;
      }
    }
    this.vectors.set(unit, row * this.dim);
  }

  /**
   * @param {ArrayLike<number>} query @param {number} count
   * @returns {{ key: string, similarity: number }[]} the most similar, by the cosine, best first
   */
  search(query, count = 10) {
    const similarities = this.similarities(Float64Array.from(this.unitOf(query)));
    const best = []; // ascending, so that the worst of them is first
    for (let row = 0; row < this.keys.length; row++) {
      const similarity = similarities[row];
      if (best.length === count && similarity <= best[0].similarity) continue;
      let at = best.length;
      while (at > 0 && best[at - 1].similarity >= similarity) at--;
      best.splice(at, 0, { key: this.keys[row], similarity });
      if (best.length > count) best.shift();
    }
    return best.reverse();
  }

  /** Four rows at once: their sums do not wait for one another, and share what is read of the query. */
  similarities(query) {
    const { vectors, dim } = this;
    const out = new Float64Array(this.keys.length + 3);
    for (let row = 0; row < this.keys.length; row += 4) {
      let [a, b, c, d] = [0, 0, 0, 0];
      for (let i = 0, at = row * dim; i < dim; i++, at++) {
        const q = query[i];
        a += q * vectors[at];
        b += q * vectors[at + dim];
        c += q * vectors[at + 2 * dim];
        d += q * vectors[at + 3 * dim];
      }
      out[row] = a;
      out[row + 1] = b;
      out[row + 2] = c;
      out[row + 3] = d;
    }
    return out;
  }

  unitOf(vector) {
    const { dim } = this;
    if (vector.length !== dim) throw new RangeError(`The vector has ${vector.length} numbers; expected ${dim}.`);
    const values = Float32Array.from(vector);
    const length = Math.hypot(...values);
    if (!(length > 0 && length < Infinity))
      throw new RangeError("The vector has no direction: it is 0, or not finite.");
    return values.map((v) => v / length);
  }
}
