/** A p-value with four digits; the smallest ones as a bound. */
export function pText(value: number | null): string {
  if (value === null) return "–";
  return value < 1e-4 ? "< 0.0001" : value.toFixed(4);
}
