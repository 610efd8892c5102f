/** Values below which some shares of all lie; nothing where there are none. */
export function quantiles(values: Float32Array, shares: readonly number[]): number[] {
  const known = values.filter((value) => !Number.isNaN(value)).sort();
  if (!known.length) return [];
  return shares.map((share) => known[Math.round(share * (known.length - 1))]!);
}
