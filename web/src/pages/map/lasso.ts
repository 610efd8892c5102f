/** Lasso: a polygon in map units, and the points inside it. */
import { boundsOf, type Grid } from "./grid";

export type Path = [x: number, y: number][];

/** Add a place to a path, unless it is too near to the last one to matter. */
export function extend(path: Path, x: number, y: number, least: number): void {
  const last = path.at(-1);
  if (!last || Math.hypot(x - last[0], y - last[1]) >= least) path.push([x, y]);
}

/** Corners of a path in a link: as few of these as select the same points, if possible. */
const CORNERS = [24, 48, 96, 192] as const;
const MOST_CORNERS = 192;

/** A path as text for a link, `3.12,-4.08;…`, with the corners that matter most. */
export function formatPath(path: Path, grid: Grid, digits: number): string {
  const wanted = inside(path, grid).join();
  const texts = CORNERS.map((most) => textOf(path, most, digits));
  return texts.find((text) => inside(readPath(text), grid).join() === wanted) ?? texts.at(-1)!;
}

function textOf(path: Path, most: number, digits: number): string {
  const corners = [...path];
  while (corners.length > most) {
    let least = Infinity;
    let at = 0;
    corners.forEach(([x, y], i) => {
      const [before, after] = [corners.at(i - 1)!, corners[(i + 1) % corners.length]!];
      // twice the area that is lost without the corner
      const area = Math.abs((before[0] - x) * (after[1] - y) - (after[0] - x) * (before[1] - y));
      if (area < least) [least, at] = [area, i];
    });
    corners.splice(at, 1);
  }
  return corners.map(([x, y]) => `${+x.toFixed(digits)},${+y.toFixed(digits)}`).join(";");
}

/** Read a path; empty if the text is none. */
export function readPath(text: string): Path {
  const path = text.split(";").map((corner) => corner.split(",").map(Number));
  const valid = path.length <= MOST_CORNERS && path.every((corner) => corner.length === 2 && corner.every(Number.isFinite));
  return valid ? (path as Path) : [];
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
