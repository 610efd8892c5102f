/**
 * Spatial index of points in square cells, for nearest-point and box queries. Cells are filled by a
 * counting sort: two arrays, no object per point.
 */
import type { Box } from "./view";

const PER_CELL = 4;
/** Number of points that give the spacing. */
const SAMPLED = 300;

export class Grid {
  readonly box: Box;
  readonly #columns: number;
  readonly #rows: number;
  readonly #cell: number;
  /** Start of each cell in `#members`. */
  readonly #start: Uint32Array;
  readonly #members: Uint32Array;

  constructor(
    readonly x: Float32Array,
    readonly y: Float32Array,
  ) {
    this.box = boundsOf(x, y);
    const width = this.box.right - this.box.left || 1;
    const height = this.box.top - this.box.bottom || 1;
    const cells = Math.max(x.length / PER_CELL, 1);
    this.#cell = Math.max(Math.sqrt((width * height) / cells), Math.max(width, height) / 4096);
    this.#columns = Math.floor(width / this.#cell) + 1;
    this.#rows = Math.floor(height / this.#cell) + 1;
    const home = new Uint32Array(x.length);
    this.#start = new Uint32Array(this.#columns * this.#rows + 1);
    for (let i = 0; i < x.length; i++) {
      const cell = this.#row(y[i]!) * this.#columns + this.#column(x[i]!);
      home[i] = cell;
      this.#start[cell + 1]! += 1;
    }
    for (let c = 1; c < this.#start.length; c++) this.#start[c]! += this.#start[c - 1]!;
    const next = this.#start.slice();
    this.#members = new Uint32Array(x.length);
    for (let i = 0; i < x.length; i++) this.#members[next[home[i]!]!++] = i;
  }

  #column(x: number): number {
    const index = Math.floor((x - this.box.left) / this.#cell);
    return Math.min(Math.max(index, 0), this.#columns - 1);
  }

  #row(y: number): number {
    const index = Math.floor((y - this.box.bottom) / this.#cell);
    return Math.min(Math.max(index, 0), this.#rows - 1);
  }

  /** Call `visit` with each point in a box until it returns false. */
  visit(box: Box, visit: (point: number) => boolean): void {
    const [first, last] = [this.#column(box.left), this.#column(box.right)];
    for (let row = this.#row(box.bottom); row <= this.#row(box.top); row++) {
      const at = row * this.#columns;
      for (let k = this.#start[at + first]!; k < this.#start[at + last + 1]!; k++) {
        const i = this.#members[k]!;
        const [x, y] = [this.x[i]!, this.y[i]!];
        const inside = x >= box.left && x <= box.right && y >= box.bottom && y <= box.top;
        if (inside && !visit(i)) return;
      }
    }
  }

  /** The point nearest to a place, however far; null without points. */
  closest(x: number, y: number): number | null {
    if (!this.x.length) return null;
    for (let reach = this.#cell; ; reach *= 2) {
      const found = this.nearest(x, y, reach);
      if (found !== null) return found;
    }
  }

  /** Distances of some points from their nearest neighbours, ascending. */
  spacing(): number[] {
    const step = Math.max(Math.floor(this.x.length / SAMPLED), 1);
    const distances: number[] = [];
    for (let i = 0; i < this.x.length; i += step) {
      let least = Infinity;
      for (let reach = this.#cell; least === Infinity && reach < 1e9; reach *= 2) {
        const [x, y] = [this.x[i]!, this.y[i]!];
        this.visit({ left: x - reach, right: x + reach, bottom: y - reach, top: y + reach }, (j) => {
          const away = Math.hypot(this.x[j]! - x, this.y[j]! - y);
          if (j !== i && away > 0 && away <= reach && away < least) least = away;
          return true;
        });
        if (this.x.length < 2) break;
      }
      if (least < Infinity) distances.push(least);
    }
    return distances.sort((a, b) => a - b);
  }

  /** The points in a box, or null if there are more than `most`. */
  within(box: Box, most: number): number[] | null {
    const points: number[] = [];
    this.visit(box, (i) => points.push(i) <= most);
    return points.length > most ? null : points;
  }

  /** The nearest point within `reach`, or null. */
  nearest(x: number, y: number, reach: number): number | null {
    let best: number | null = null;
    let least = reach * reach;
    const box = { left: x - reach, right: x + reach, bottom: y - reach, top: y + reach };
    this.visit(box, (i) => {
      const away = (this.x[i]! - x) ** 2 + (this.y[i]! - y) ** 2;
      if (away <= least) [best, least] = [i, away];
      return true;
    });
    return best;
  }
}

export function boundsOf(x: Float32Array, y: Float32Array): Box {
  const box = { left: Infinity, right: -Infinity, bottom: Infinity, top: -Infinity };
  for (let i = 0; i < x.length; i++) {
    box.left = Math.min(box.left, x[i]!);
    box.right = Math.max(box.right, x[i]!);
    box.bottom = Math.min(box.bottom, y[i]!);
    box.top = Math.max(box.top, y[i]!);
  }
  return x.length ? box : { left: 0, right: 1, bottom: 0, top: 1 };
}
