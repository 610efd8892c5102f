/** Where the names of places are written: largest places first, never cut, covering little. */
import type { Grid } from "./grid";
import type { Box, View } from "./view";

/** A place as it is drawn. */
export interface Place {
  place: number;
  name: string;
  /** Number of components. */
  size: number;
  /** Where the name is best; null without a name. */
  at: { x: number; y: number } | null;
  /** Its outline, and the box around it, in units of the map. */
  outline: Path2D;
  box: Box;
  medoid: number;
  light: string;
  dark: string;
}

export interface PlacedLabel {
  place: Place;
  text: string;
  box: Rect;
}

export type Rect = [left: number, top: number, width: number, height: number];

export const LABEL_HEIGHT = 16;
const APART = 4;
const EDGE = 3;
/** Distances from the outline that are tried, in pixels. */
const AWAY = [2, 12];
/** Share of a place, or of the window, that must be visible for a name. */
const LEAST_VISIBLE = 0.2;
/** Screen area per name at zoom 1, in square pixels. */
const AREA = 11_000;
/** Covered points are counted up to this number. */
const COVERED = 12;
const LONGEST = 34;
/** Share of the window's width that a name may have, if its first word says enough. */
const WIDEST = 0.25;

/** A name that is short enough to be read at a glance. */
export function shorten(text: string): string {
  return text.length > LONGEST ? `${text.slice(0, LONGEST - 1).trimEnd()}…` : text;
}

/** The name of a place; where that is wide for the window, its first word if no other has it. */
function nameFor(
  { name }: Place,
  places: readonly Place[],
  measure: (text: string) => number,
  most: number,
): string {
  const text = shorten(name);
  const first = firstWord(name);
  if (measure(text) <= most || places.some((one) => one.name !== name && firstWord(one.name) === first)) return text;
  return first;
}

const firstWord = (name: string) => name.split(", ")[0]!;

/**
 * Write names where they are best or around the outlines of their places, without overlaps.
 *
 * @param half half the side of what is drawn at a point, in pixels.
 * @param measure width of a text in CSS pixels.
 * @param taken occupied boxes on the screen.
 */
export function placeLabels(
  view: View,
  places: readonly Place[],
  grid: Grid,
  half: number,
  measure: (text: string) => number,
  taken: readonly Rect[] = [],
): PlacedLabel[] {
  const boxes: Rect[] = [...taken];
  const placed: PlacedLabel[] = [];
  const room = Math.max((view.width * view.height) / AREA, 5) * (1 + Math.log2(view.zoom));
  for (const place of places) {
    if (placed.length >= room) break;
    if (!place.at || !visible(view, place.box)) continue;
    const text = nameFor(place, places, measure, view.width * WIDEST);
    const width = measure(text) + 2 * APART;
    let best: Rect | null = null;
    let least = Infinity;
    for (const [x, y] of options(view, place, width)) {
      const box: Rect = [x - width / 2, y - LABEL_HEIGHT / 2, width, LABEL_HEIGHT];
      if (!onScreen(view, box) || boxes.some((other) => overlap(box, other))) continue;
      const cost = covered(view, grid, box, half);
      if (cost < least) [best, least] = [box, cost];
      if (cost === 0) break;
    }
    if (!best) continue;
    boxes.push(best);
    placed.push({ place, text, box: best });
  }
  return placed;
}

/** Middles of a name: the best one, then around the visible part of the outline, then further out. */
function* options(view: View, { at, box }: Place, width: number): Generator<[number, number]> {
  const within = (value: number, half: number, most: number) =>
    Math.min(Math.max(value, half + EDGE), Math.max(most - half - EDGE, half + EDGE));
  const keep = (x: number, y: number): [number, number] => [
    within(x, width / 2, view.width),
    within(y, LABEL_HEIGHT / 2, view.height),
  ];
  if (at) yield keep(view.screenX(at.x), view.screenY(at.y));
  const left = Math.max(view.screenX(box.left), 0);
  const right = Math.min(view.screenX(box.right), view.width);
  const top = Math.max(view.screenY(box.top), 0);
  const bottom = Math.min(view.screenY(box.bottom), view.height);
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  for (const gap of AWAY) {
    const [down, out] = [LABEL_HEIGHT / 2 + gap, width / 2 + gap];
    yield keep(x, top - down);
    yield keep(x, bottom + down);
    yield keep(left + width / 2, top - down);
    yield keep(right - width / 2, top - down);
    yield keep(left - out, y);
    yield keep(right + out, y);
  }
}

function covered(view: View, grid: Grid, [left, top, width, height]: Rect, half: number): number {
  let count = 0;
  const box = {
    left: view.mapX(left - half),
    right: view.mapX(left + width + half),
    bottom: view.mapY(top + height + half),
    top: view.mapY(top - half),
  };
  grid.visit(box, () => (count += 1) < COVERED);
  return count;
}

/** Whether enough of a place is visible for its name to be clear. */
function visible(view: View, { left, right, bottom, top }: Box): boolean {
  const [x, y] = [view.screenX(left), view.screenY(top)];
  const [width, height] = [view.screenX(right) - x, view.screenY(bottom) - y];
  const across = Math.min(x + width, view.width) - Math.max(x, 0);
  const down = Math.min(y + height, view.height) - Math.max(y, 0);
  if (across <= 0 || down <= 0) return false;
  return across * down >= LEAST_VISIBLE * Math.min(width * height, view.width * view.height);
}

function onScreen(view: View, [left, top, width, height]: Rect): boolean {
  return left >= 0 && left + width <= view.width && top >= 0 && top + height <= view.height;
}

export function overlap([x, y, w, h]: Rect, [left, top, width, height]: Rect): boolean {
  return left < x + w && x < left + width && top < y + h && y < top + height;
}
