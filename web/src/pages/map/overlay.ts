/** Overlay of the map: labels, rings of matches, the selected component, and the lasso. */
import { css } from "./colour";
import type { Crop } from "./crops";
import type { Grid } from "./grid";
import type { Path } from "./lasso";
import { placeLabels, shorten, type Label, type Rect } from "./labels";
import type { Palette } from "./paint";
import type { View } from "./view";

export interface Marks {
  /** Points that match the query, the best first. */
  rings: readonly number[];
  /** The point whose card is open. */
  chosen: number | null;
  hovered: number | null;
  lasso: Path;
  labels: readonly Label[];
}

export interface Places {
  x: Float32Array;
  y: Float32Array;
  grid: Grid;
}

const FONT = "600 12px system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";
const widths = new Map<string, number>();

function boxes(crops: readonly Crop[]): Rect[] {
  return crops.map(({ x, y, size }) => [x - size / 2, y - size / 2, size, size]);
}

/**
 * Draw in CSS pixels; the caller scales the canvas.
 *
 * @param taken boxes that labels must not overlap.
 */
export function drawOverlay(
  context: CanvasRenderingContext2D,
  view: View,
  places: Places,
  marks: Marks,
  crops: readonly Crop[],
  diameter: number,
  palette: Palette,
  taken: readonly Rect[] = [],
): void {
  drawRings(context, view, places, marks, crops, diameter, palette);
  drawLabels(context, view, places.grid, marks.labels, [...taken, ...boxes(crops)], palette);
  drawLasso(context, view, marks.lasso, palette);
}

function drawRings(
  context: CanvasRenderingContext2D,
  view: View,
  { x, y }: Places,
  marks: Marks,
  crops: readonly Crop[],
  diameter: number,
  palette: Palette,
): void {
  const cropOf = new Map(crops.map((crop) => [crop.point, crop]));
  const ring = (point: number, gap: number, width: number, colour: string): void => {
    const [h, v] = [view.screenX(x[point]!), view.screenY(y[point]!)];
    if (h < -40 || v < -40 || h > view.width + 40 || v > view.height + 40) return;
    const crop = cropOf.get(point);
    context.beginPath();
    if (crop) {
      const half = crop.size / 2 + gap - 2;
      context.roundRect(h - half, v - half, 2 * half, 2 * half, 5);
    } else context.arc(h, v, diameter / 2 + gap, 0, 2 * Math.PI);
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.stroke();
  };
  const paper = css(palette.paper, 0.9);
  const ink = css(palette.ink);
  for (const point of marks.rings.toReversed()) {
    ring(point, 3, 3.5, paper);
    ring(point, 3, 1.5, ink);
  }
  if (marks.hovered !== null) ring(marks.hovered, 2.5, 2, ink);
  if (marks.chosen !== null) {
    ring(marks.chosen, 5.5, 6, paper);
    ring(marks.chosen, 5.5, 3, css(palette.accent));
  }
}

function drawLabels(
  context: CanvasRenderingContext2D,
  view: View,
  grid: Grid,
  labels: readonly Label[],
  taken: readonly Rect[],
  palette: Palette,
): void {
  context.font = FONT;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  context.lineWidth = 3.5;
  context.strokeStyle = css(palette.paper, 0.88);
  context.fillStyle = css(palette.ink);
  const measure = (text: string): number => {
    const known = widths.get(text) ?? context.measureText(text).width;
    widths.set(text, known);
    return known;
  };
  for (const { label, x, y } of placeLabels(view, labels, grid, measure, taken)) {
    const text = shorten(label.text);
    context.strokeText(text, x, y);
    context.fillText(text, x, y);
  }
}

function drawLasso(
  context: CanvasRenderingContext2D,
  view: View,
  lasso: Path,
  palette: Palette,
): void {
  if (lasso.length < 2) return;
  context.beginPath();
  for (const [x, y] of lasso) context.lineTo(view.screenX(x), view.screenY(y));
  context.closePath();
  context.fillStyle = css(palette.accent, 0.12);
  context.fill();
  context.lineWidth = 1.5;
  context.strokeStyle = css(palette.accent);
  context.stroke();
}
