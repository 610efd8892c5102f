/** Crops shown instead of dots at high zoom: which, where, and how large. */
import type { Grid } from "./grid";
import type { View } from "./view";

export interface Crop {
  point: number;
  x: number;
  y: number;
  size: number;
}

/** With more points in view, crops would hide each other. */
const MAX_CROPS = 60;
const SIZES = { least: 28, most: 72 };

/**
 * Select crops for the points in view; none if there are too many.
 *
 * Points in `first` have priority; a point whose crop would overlap another stays a dot.
 */
export function cropsOf(view: View, grid: Grid, first: readonly number[]): Crop[] {
  if (view.zoom < 1.5 && grid.x.length > MAX_CROPS) return [];
  const visible = grid.within(view.seen, MAX_CROPS);
  if (!visible?.length) return [];
  const area = (view.width * view.height) / visible.length;
  const size = Math.min(Math.max(Math.sqrt(area) * 0.42, SIZES.least), SIZES.most);
  const priority = new Set(first);
  const order = [...visible].sort((a, b) => Number(priority.has(b)) - Number(priority.has(a)) || a - b);
  const crops: Crop[] = [];
  for (const point of order) {
    const [x, y] = [view.screenX(grid.x[point]!), view.screenY(grid.y[point]!)];
    const free = crops.every((o) => Math.abs(o.x - x) >= size || Math.abs(o.y - y) >= size);
    if (free) crops.push({ point, x, y, size });
  }
  return crops;
}

/** The point whose crop is at a screen position. */
export function cropAt(crops: readonly Crop[], x: number, y: number): number | null {
  const hit = crops.find(
    (crop) => Math.abs(crop.x - x) <= crop.size / 2 && Math.abs(crop.y - y) <= crop.size / 2,
  );
  return hit?.point ?? null;
}
