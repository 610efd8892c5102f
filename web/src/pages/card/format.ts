/** Formatting of numbers. */

/** A share in percent: one decimal below 10 %, and "< 0.1 %" instead of "0 %" for small values. */
export function percent(share: number): string {
  const value = 100 * share;
  if (value === 0) return "0 %";
  if (value > 0 && value < 0.1) return "< 0.1 %";
  // 99.9 must not become 100
  const digits = Math.abs(value) < 10 || (value > 99 && value < 100) ? 1 : 0;
  return `${value.toFixed(digits)} %`;
}

/** Three significant digits, with an exponent only for very large or small values. */
export function short(value: number): string {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1);
  return size >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

export function count(value: number): string {
  return value.toLocaleString("en");
}
