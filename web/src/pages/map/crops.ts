/** Crops on the map: which components have one, where, and how large. */
import type { Grid } from "./grid";
import { overlap, type Rect } from "./labels";
import type { View } from "./view";

export interface Crop {
  point: number;
  x: number;
  y: number;
  size: number;
}

/**
 * Where each component has room: the share of it that a crop takes, and its most pixels. With fewer
 * than `small` pixels, fewer and larger crops are shown.
 */
const SPREAD = { small: 17, few: 26, most: 120, share: 0.94 };
/** Side in pixels where there are many components, at zoom 1 and at most. */
const MANY = { first: 34, most: 88, growth: 0.4 };
/** At most this many crops on a map of many components. */
const MOST = 130;
/** Crops may overlap by a tenth of their side, and a name by a thirtieth. */
const APART = 0.9;
const INSET = 1 / 30;
/** Distance between crops in sides, so that dots stay visible between them. */
const AIRY = 1.35;
const LEVELS = 11;

/**
 * Chooses crops. Where there are many components, each has a level: that of the coarsest square
 * grid in which it is the first of its cell. A zoom shows some levels, so that the same components
 * keep their crops while the map moves, and more appear as it grows.
 */
export class CropChooser {
  /** Points by level. */
  readonly #levels: number[][] = [];

  /**
   * @param first points that come before others: the middles of places.
   * @param spread whether each component has room for a crop with a side of 1.
   */
  constructor(
    readonly grid: Grid,
    first: readonly number[],
    readonly spread: boolean,
  ) {
    const count = grid.x.length;
    const { left, right, bottom, top } = grid.box;
    const side = Math.max(right - left, top - bottom) || 1;
    const taken = Array.from({ length: LEVELS }, (_, level) => new Uint8Array(4 ** level));
    this.#levels = Array.from({ length: LEVELS + 1 }, () => []);
    const done = new Uint8Array(count);
    const add = (point: number): void => {
      if (done[point]) return;
      done[point] = 1;
      let own = LEVELS;
      for (let level = LEVELS - 1; level >= 0; level--) {
        const cells = 2 ** level;
        const column = Math.min(Math.floor(((grid.x[point]! - left) / side) * cells), cells - 1);
        const row = Math.min(Math.floor(((grid.y[point]! - bottom) / side) * cells), cells - 1);
        const cell = row * cells + column;
        if (taken[level]![cell]) break;
        taken[level]![cell] = 1;
        own = level;
      }
      this.#levels[own]!.push(point);
    };
    first.forEach(add);
    // all points in an order that looks random: a step coprime with their number
    for (let i = 0, point = 0; i < count; i++, point = (point + STEP) % count) add(point);
    for (let point = 0; point < count; point++) add(point);
  }

  sizeOf(view: View): number {
    if (this.spread) {
      const side = SPREAD.share * view.scale;
      return side < SPREAD.small ? SPREAD.few : Math.min(side, SPREAD.most);
    }
    return Math.min(MANY.first * view.zoom ** MANY.growth, MANY.most);
  }

  /**
   * The crops in view.
   *
   * @param wanted points that come first: the open one and matches.
   * @param taken boxes on the screen that crops leave free: names.
   */
  choose(view: View, wanted: readonly number[], taken: readonly Rect[]): Crop[] {
    const size = this.sizeOf(view);
    const { left, right, bottom, top } = this.grid.box;
    const across = (Math.max(right - left, top - bottom) || 1) * view.scale;
    const finest = this.spread ? LEVELS : Math.min(Math.ceil(Math.log2(across / size)) + 1, LEVELS);
    const distance = size * (this.spread || finest === LEVELS ? APART : AIRY);
    const placed = new Occupied(distance);
    const crops: Crop[] = [];
    const most = this.spread ? Infinity : MOST;
    const add = (point: number): void => {
      if (crops.length >= most) return;
      const [x, y] = [view.screenX(this.grid.x[point]!), view.screenY(this.grid.y[point]!)];
      const half = size / 2;
      if (x < -half || y < -half || x > view.width + half || y > view.height + half) return;
      const inner = size * (1 - 2 * INSET);
      const core: Rect = [x - inner / 2, y - inner / 2, inner, inner];
      if (taken.some((box) => overlap(box, core)) || !placed.add(x, y)) return;
      crops.push({ point, x, y, size });
    };
    wanted.forEach(add);
    const seen = new Set(wanted);
    for (let level = 0; level <= finest; level++)
      for (const point of this.#levels[level]!) if (!seen.has(point)) add(point);
    return crops;
  }
}

/** A prime. */
const STEP = 7919;

/** Squares of a side, in a hash of cells; none may overlap. */
class Occupied {
  readonly #cells = new Map<number, [x: number, y: number][]>();

  constructor(readonly side: number) {}

  /** Add the square around a point; false if it would overlap another. */
  add(x: number, y: number): boolean {
    const [column, row] = [Math.floor(x / this.side), Math.floor(y / this.side)];
    for (let i = column - 1; i <= column + 1; i++)
      for (let j = row - 1; j <= row + 1; j++)
        for (const [h, v] of this.#cells.get(keyOf(i, j)) ?? [])
          if (Math.abs(h - x) < this.side && Math.abs(v - y) < this.side) return false;
    const key = keyOf(column, row);
    const cell = this.#cells.get(key);
    if (cell) cell.push([x, y]);
    else this.#cells.set(key, [[x, y]]);
    return true;
  }
}

function keyOf(column: number, row: number): number {
  return (column + 32_768) * 65_536 + row + 32_768;
}

/** The point whose crop is at a screen position; the last drawn is on top. */
export function cropAt(crops: readonly Crop[], x: number, y: number): number | null {
  const hit = crops.findLast(
    (crop) => Math.abs(crop.x - x) <= crop.size / 2 && Math.abs(crop.y - y) <= crop.size / 2,
  );
  return hit?.point ?? null;
}
