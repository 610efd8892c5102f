/** Places of the map from the server's response, ready to be drawn. */
import type { MapPlaces } from "../../api/types";
import type { MapData } from "./data";
import type { Place } from "./labels";
import type { Box } from "./view";

/** Room around a component, in units of the map; a crop has a side of 1. */
const MARGIN = 0.6;
/** Width of a letter and half the height of a name, in the same units. */
const LETTER = 0.11;
const LINE = 0.34;

/** The places, the largest first. */
export function placesOf({ places }: MapPlaces, data: MapData): Place[] {
  const boxes = new Map<number, Box>();
  for (let point = 0; point < data.count; point++) grow(boxes, data.place[point]!, data.x[point]!, data.y[point]!);
  return places.map((item) => {
    const outline = new Path2D();
    const islands: Box[] = [];
    for (const ring of item.rings) {
      const around: Box = { left: Infinity, right: -Infinity, bottom: Infinity, top: -Infinity };
      islands.push(around);
      for (let i = 0; i < ring.length; i += 2) {
        const [x, y] = [ring[i]!, ring[i + 1]!];
        if (i) outline.lineTo(x, y);
        else outline.moveTo(x, y);
        extend(around, x, y);
      }
      outline.closePath();
    }
    // a place may have islands: its name stands at the largest
    const island = islands.reduce((a, b) => (areaOf(b) > areaOf(a) ? b : a), islands[0]!);
    const name = item.labels.join(", ");
    return {
      place: item.place,
      name,
      size: item.size,
      at: item.x === null || item.y === null ? null : { x: item.x, y: item.y },
      outline,
      box: islands.length ? island : (boxes.get(item.place) ?? data.grid.box),
      medoid: item.medoid,
      light: item.light,
      dark: item.dark,
    };
  });
}

/** The box around all that is drawn: components, outlines and names. */
export function frameOf(data: MapData, places: readonly Place[], spread: boolean): Box {
  const { left, right, bottom, top } = data.grid.box;
  const margin = spread ? MARGIN : 0.02 * Math.max(right - left, top - bottom);
  const box: Box = {
    left: left - margin,
    right: right + margin,
    bottom: bottom - margin,
    top: top + margin,
  };
  for (const { at, name, box: own } of places) {
    extend(box, own.left, own.bottom);
    extend(box, own.right, own.top);
    if (!spread || !at) continue;
    extend(box, at.x - LETTER * name.length, at.y - LINE);
    extend(box, at.x + LETTER * name.length, at.y + LINE);
  }
  return box;
}

function areaOf({ left, right, bottom, top }: Box): number {
  return (right - left) * (top - bottom);
}

function grow(boxes: Map<number, Box>, place: number, x: number, y: number): void {
  let box = boxes.get(place);
  if (!box) boxes.set(place, (box = { left: x, right: x, bottom: y, top: y }));
  extend(box, x, y);
}

function extend(box: Box, x: number, y: number): void {
  box.left = Math.min(box.left, x);
  box.right = Math.max(box.right, x);
  box.bottom = Math.min(box.bottom, y);
  box.top = Math.max(box.top, y);
}
