/** A value from a file in the form in which messages quote it: short, however long or deep it is. */
export function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 80 ? `${value.slice(0, 79)}…` : value);
  if (Array.isArray(value)) {
    const items = value.slice(0, 8).map((item) => (typeof item === "object" && item !== null ? "…" : show(item)));
    return `[${items.join(", ")}${value.length > 8 ? ", …" : ""}]`;
  }
  return typeof value === "object" && value !== null ? "{…}" : String(value);
}
