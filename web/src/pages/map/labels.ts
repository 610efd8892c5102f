/** Placement of cluster labels: largest clusters first, more labels at higher zoom. */
import type { MapCluster } from "../../api/types";
import type { Grid } from "./grid";
import type { View } from "./view";

export interface Label {
  text: string;
  x: number;
  y: number;
  /** Number of components of the cluster. */
  size: number;
  cluster: number;
}

/** The labels of clusters that have one, the largest first. */
export function labelsOf(clusters: readonly MapCluster[]): Label[] {
  return clusters
    .filter((cluster) => cluster.labels.length)
    .map(({ labels, x, y, size, cluster }) => ({ text: labels.join(", "), x, y, size, cluster }))
    .sort((a, b) => b.size - a.size);
}

export interface PlacedLabel {
  label: Label;
  /** Middle of the text on the screen. */
  x: number;
  y: number;
}

export const LABEL_HEIGHT = 16;
const APART = 5;
/** Vertical offsets that are tried, in pixels. */
const SHIFTS = [0, -16, 16, -26, 26];
/** Screen area per label at zoom 1, in square pixels. */
const AREA = 42_000;
/** Covered points are counted up to this number. */
const COVERED = 12;
const LONGEST = 34;

/** A label that is short enough to be read at a glance. */
export function shorten(text: string): string {
  return text.length > LONGEST ? `${text.slice(0, LONGEST - 1).trimEnd()}…` : text;
}

/**
 * Place labels on, above or below their clusters, without overlaps and covering few points.
 *
 * @param measure width of a text in CSS pixels.
 * @param taken occupied boxes on the screen: x, y, width, height.
 */
export function placeLabels(
  view: View,
  labels: readonly Label[],
  grid: Grid,
  measure: (text: string) => number,
  taken: readonly Rect[] = [],
): PlacedLabel[] {
  const boxes: Rect[] = [...taken];
  const placed: PlacedLabel[] = [];
  const all = Math.max((view.width * view.height) / AREA, 5);
  const room = all * (1 + Math.log2(Math.max(view.zoom, 1)));
  for (const label of labels) {
    if (placed.length >= room) break;
    const [x, y] = [view.screenX(label.x), view.screenY(label.y)];
    const width = measure(shorten(label.text)) + 2 * APART;
    let best: { y: number; box: Rect } | null = null;
    let least = Infinity;
    for (const shift of SHIFTS) {
      const box: Rect = [x - width / 2, y + shift - LABEL_HEIGHT / 2, width, LABEL_HEIGHT];
      if (!onScreen(view, box) || boxes.some((other) => overlap(box, other))) continue;
      const cost = covered(view, grid, box) + Math.abs(shift) / 8;
      if (cost < least) [best, least] = [{ y: y + shift, box }, cost];
    }
    if (!best) continue;
    boxes.push(best.box);
    placed.push({ label, x, y: best.y });
  }
  return placed;
}

export type Rect = [left: number, top: number, width: number, height: number];

function covered(view: View, grid: Grid, [left, top, width, height]: Rect): number {
  let count = 0;
  const box = {
    left: view.mapX(left),
    right: view.mapX(left + width),
    bottom: view.mapY(top + height),
    top: view.mapY(top),
  };
  grid.visit(box, () => (count += 1) < COVERED);
  return count;
}

function onScreen(view: View, [left, top, width, height]: Rect): boolean {
  return left >= 0 && left + width <= view.width && top >= 0 && top + height <= view.height;
}

function overlap([x, y, w, h]: Rect, [left, top, width, height]: Rect): boolean {
  return left < x + w && x < left + width && top < y + h && y < top + height;
}
