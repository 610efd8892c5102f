/** Overlay of the map: outlines and names of places, rings, the selected component, the lasso. */
import { css, hex } from "./colour";
import type { Crop } from "./crops";
import type { Grid } from "./grid";
import { LABEL_HEIGHT, type Place, type PlacedLabel } from "./labels";
import type { Path } from "./lasso";
import type { Palette } from "./paint";
import type { View } from "./view";

export interface Marks {
  /** Points that match the query, the best first. */
  rings: readonly number[];
  /** Points that have a crop before others. */
  first: readonly number[];
  /** The point whose card is open. */
  chosen: number | null;
  hovered: number | null;
  lasso: Path;
  places: readonly Place[];
  /** The place that is hovered or selected. */
  place: number | null;
  /** Whether places have colours; otherwise their outlines are grey. */
  tinted: boolean;
  dark: boolean;
}

export interface Points {
  x: Float32Array;
  y: Float32Array;
  grid: Grid;
}

const FONT = "600 12px system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";
const widths = new Map<string, number>();

/** Width of a name in CSS pixels. */
export function measureWith(context: CanvasRenderingContext2D): (text: string) => number {
  return (text) => {
    context.font = FONT;
    const known = widths.get(text) ?? context.measureText(text).width;
    widths.set(text, known);
    return known;
  };
}

/** Draw in CSS pixels; the caller scales the canvas. */
export function drawOverlay(
  context: CanvasRenderingContext2D,
  view: View,
  points: Points,
  marks: Marks,
  names: readonly PlacedLabel[],
  crops: readonly Crop[],
  diameter: number,
  palette: Palette,
): void {
  drawOutlines(context, view, marks, palette);
  drawRings(context, view, points, marks, crops, diameter, palette);
  drawNames(context, names, palette);
  drawLasso(context, view, marks.lasso, palette);
}

function drawOutlines(
  context: CanvasRenderingContext2D,
  view: View,
  { places, place: strong, tinted, dark }: Marks,
  palette: Palette,
): void {
  context.save();
  context.transform(view.scale, 0, 0, -view.scale, view.screenX(0), view.screenY(0));
  for (const place of places) {
    const colour = tinted ? hex(dark ? place.dark : place.light) : palette.soft;
    const here = place.place === strong;
    context.fillStyle = css(colour, here ? 0.24 : dark ? 0.15 : 0.11);
    context.fill(place.outline, "evenodd");
    context.lineWidth = (here ? 2 : 1) / view.scale;
    context.strokeStyle = css(colour, here ? 0.95 : 0.5);
    context.stroke(place.outline);
  }
  context.restore();
}

function drawRings(
  context: CanvasRenderingContext2D,
  view: View,
  { x, y }: Points,
  marks: Marks,
  crops: readonly Crop[],
  diameter: number,
  palette: Palette,
): void {
  const cropOf = new Map(crops.map((crop) => [crop.point, crop]));
  const ring = (point: number, gap: number, width: number, colour: string): void => {
    const [h, v] = [view.screenX(x[point]!), view.screenY(y[point]!)];
    if (h < -60 || v < -60 || h > view.width + 60 || v > view.height + 60) return;
    const crop = cropOf.get(point);
    context.beginPath();
    if (crop) {
      const half = crop.size / 2 + gap - 2;
      context.roundRect(h - half, v - half, 2 * half, 2 * half, 6);
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

function drawNames(
  context: CanvasRenderingContext2D,
  names: readonly PlacedLabel[],
  palette: Palette,
): void {
  context.font = FONT;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  context.lineWidth = 4;
  context.strokeStyle = css(palette.paper, 0.9);
  context.fillStyle = css(palette.ink);
  for (const { text, box } of names) {
    const [x, y] = [box[0] + box[2] / 2, box[1] + LABEL_HEIGHT / 2];
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
