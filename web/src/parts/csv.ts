/** Tables as CSV, and files that the browser offers to save. */
type Field = string | number | null | undefined;

/** A field; a spreadsheet would run what begins like a formula, so text does not. */
function quoted(value: Field): string {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** A table with its heading. */
export function csv(head: readonly string[], lines: readonly (readonly Field[])[]): Blob {
  const text = [head, ...lines].map((line) => `${line.map(quoted).join(",")}\r\n`).join("");
  return new Blob([text], { type: "text/csv;charset=utf-8" });
}

/** Offer a file under a name in which only plain letters are left. */
export function offer(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name.replace(/[^\w.-]+/g, "-");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
