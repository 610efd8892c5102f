/** Numbers as people read them. */

/** A share as per cent: one decimal below ten per cent, and never "0 %" for a little. */
export function percent(share: number): string {
  const value = 100 * share;
  if (value === 0) return "0 %";
  if (value > 0 && value < 0.1) return "< 0.1 %";
  // 99.9 is not 100
  const digits = Math.abs(value) < 10 || (value > 99 && value < 100) ? 1 : 0;
  return `${value.toFixed(digits)} %`;
}

/** Three significant digits, without an exponent where it can be helped. */
export function short(value: number): string {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1);
  return size >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

export function count(value: number): string {
  return value.toLocaleString("en");
}
