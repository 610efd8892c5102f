/** At high zoom dots become pictures: which, where, and how large. */
import type { Grid } from "./grid";
import type { View } from "./view";

export interface Crop {
  point: number;
  x: number;
  y: number;
  size: number;
}

/** With more points in view pictures would hide each other. */
const MOST = 60;
const SIZES = { least: 28, most: 72 };

/**
 * Choose pictures for the points in view; empty where there are too many of them.
 *
 * Points that matter come first; one whose picture would cover another's stays a dot.
 */
export function cropsOf(view: View, grid: Grid, first: readonly number[]): Crop[] {
  if (view.zoom < 1.5 && grid.x.length > MOST) return [];
  const found = grid.within(view.seen, MOST);
  if (!found?.length) return [];
  const area = (view.width * view.height) / found.length;
  const size = Math.min(Math.max(Math.sqrt(area) * 0.42, SIZES.least), SIZES.most);
  const ahead = new Set(first);
  const order = [...found].sort((a, b) => Number(ahead.has(b)) - Number(ahead.has(a)) || a - b);
  const crops: Crop[] = [];
  for (const point of order) {
    const [x, y] = [view.screenX(grid.x[point]!), view.screenY(grid.y[point]!)];
    const free = crops.every((o) => Math.abs(o.x - x) >= size || Math.abs(o.y - y) >= size);
    if (free) crops.push({ point, x, y, size });
  }
  return crops;
}

/** The point whose picture is at a place of the screen. */
export function cropAt(crops: readonly Crop[], x: number, y: number): number | null {
  const found = crops.find(
    (crop) => Math.abs(crop.x - x) <= crop.size / 2 && Math.abs(crop.y - y) <= crop.size / 2,
  );
  return found?.point ?? null;
}
