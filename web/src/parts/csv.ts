/** Tables as CSV, and downloads. */
type Field = string | number | null | undefined;

/** Quote a field; text that a spreadsheet would run as a formula is escaped. */
function quoted(value: Field): string {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** A table with a header. */
export function csv(head: readonly string[], lines: readonly (readonly Field[])[]): Blob {
  const text = [head, ...lines].map((line) => `${line.map(quoted).join(",")}\r\n`).join("");
  return new Blob([text], { type: "text/csv;charset=utf-8" });
}

/** Download a file under a name reduced to safe characters. */
export function download(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name.replace(/[^\w.-]+/g, "-");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
