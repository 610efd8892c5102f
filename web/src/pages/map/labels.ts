/** Which labels of clusters there is room for: the largest first, more of them with zoom. */
import type { View } from "./view";

export interface Label {
  text: string;
  x: number;
  y: number;
  /** How many components it stands for. */
  size: number;
  cluster: number;
}

export interface PlacedLabel {
  label: Label;
  /** Middle of the text on the screen. */
  x: number;
  y: number;
}

export const LABEL_HEIGHT = 16;
const APART = 5;
const LONGEST = 34;

/** A label that is short enough to be read at a glance. */
export function shorten(text: string): string {
  return text.length > LONGEST ? `${text.slice(0, LONGEST - 1).trimEnd()}…` : text;
}

/**
 * Put labels on their clusters, or just above or below, where none covers another.
 *
 * @param measure width of a text in CSS pixels.
 * @param taken boxes on the screen that hold something else: x, y, width, height.
 */
export function placeLabels(
  view: View,
  labels: readonly Label[],
  measure: (text: string) => number,
  taken: readonly [number, number, number, number][] = [],
): PlacedLabel[] {
  const boxes: [number, number, number, number][] = [...taken];
  const placed: PlacedLabel[] = [];
  const room = 10 + 14 * Math.log2(1 + view.zoom) + (view.width * view.height) / 60_000;
  for (const label of labels) {
    if (placed.length >= room) break;
    const [x, y] = [view.screenX(label.x), view.screenY(label.y)];
    const width = measure(shorten(label.text)) + 2 * APART;
    for (const shift of [0, -LABEL_HEIGHT, LABEL_HEIGHT]) {
      const [left, top] = [x - width / 2, y + shift - LABEL_HEIGHT / 2];
      const off =
        left < 0 || left + width > view.width || top < 0 || top + LABEL_HEIGHT > view.height;
      if (off || boxes.some((box) => overlap(box, left, top, width, LABEL_HEIGHT))) continue;
      boxes.push([left, top, width, LABEL_HEIGHT]);
      placed.push({ label, x, y: y + shift });
      break;
    }
  }
  return placed;
}

function overlap(
  [x, y, w, h]: [number, number, number, number],
  left: number,
  top: number,
  width: number,
  height: number,
): boolean {
  return left < x + w && x < left + width && top < y + h && y < top + height;
}
