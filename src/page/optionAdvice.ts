/** What a misspelt option may have meant. It is in dist/option-advice.js, which only pages with such an option load. */

/** @returns what to write instead of `name`: the nearest of the known names, or all of them */
export function adviceOn(name: string, known: string[]): string {
  const meant = nearest(name, known);
  return meant ? `did you mean ${meant}?` : `expected one of ${known.join(", ")}.`;
}

/** @returns the known name that is at most a third of its letters away, whatever the case */
function nearest(name: string, known: string[]): string | undefined {
  const ranked = known
    .map((candidate) => ({ candidate, edits: editDistance(name.toLowerCase(), candidate.toLowerCase()) }))
    .sort((a, b) => a.edits - b.edits);
  const [{ candidate, edits }] = ranked;
  return edits <= Math.ceil(candidate.length / 3) ? candidate : undefined;
}

/** Levenshtein's: letters to insert, delete or replace. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length];
}
