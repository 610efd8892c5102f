/** Lasso: a polygon in map units, and the points inside it. */
import { boundsOf, type Grid } from "./grid";

export type Path = [x: number, y: number][];

/** Add a place to a path, unless it is too near to the last one to matter. */
export function extend(path: Path, x: number, y: number, least: number): void {
  const last = path.at(-1);
  if (!last || Math.hypot(x - last[0], y - last[1]) >= least) path.push([x, y]);
}

/** The points inside a path, which is closed; ascending. */
export function inside(path: Path, grid: Grid): Uint32Array {
  if (path.length < 3) return new Uint32Array();
  const x = Float32Array.from(path, (place) => place[0]);
  const y = Float32Array.from(path, (place) => place[1]);
  const found: number[] = [];
  grid.visit(boundsOf(x, y), (i) => {
    if (contains(x, y, grid.x[i]!, grid.y[i]!)) found.push(i);
    return true;
  });
  return Uint32Array.from(found).sort();
}

/** Even-odd rule: a ray to the right crosses the border an odd number of times. */
function contains(x: Float32Array, y: Float32Array, px: number, py: number): boolean {
  let odd = false;
  for (let i = 0, j = x.length - 1; i < x.length; j = i++) {
    const [ax, ay, bx, by] = [x[i]!, y[i]!, x[j]!, y[j]!];
    if (ay > py !== by > py && px < ((bx - ax) * (py - ay)) / (by - ay) + ax) odd = !odd;
  }
  return odd;
}
